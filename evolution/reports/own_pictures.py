"""The findings of the check of users' own pictures, from the versions trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolution.data.confidence import interval
from evolution.reports.html_page import Report, Table, accuracy, integer
from evolution.reports.measures import RunRecord

SPLITS = ("train", "validation", "test")
SEVERAL = "constant_mean_average_precision"  # of sets with several labels a picture


def add_pictures(report: Report, run: RunRecord) -> None:
    """Adds a table of the tasks from users' own pictures, if there are any."""
    if not run.data:
        return
    columns = {
        "task": None, **dict.fromkeys(SPLITS, integer), "skipped": integer,
        "repeated across splits": integer, "majority": accuracy, f"test {run.quality}": accuracy,
        "95 % interval": None,
    }  # fmt: skip
    report.heading("Pictures")
    rows = [(task, *_row(data, run.test.get(task))) for task, data in run.data.items()]
    report.table(Table(columns, rows), "pictures")
    report.text(
        "Pictures of each split; how many files could not be used, and how many validation and "
        "test pictures show the same as one of training. Majority is the test accuracy of always "
        "answering the most common class. The interval shows how precisely the test pictures "
        "measure it. With several labels a picture, both are mean average precisions, the first "
        "of equal answers, and there is no interval."
    )
    found = [
        (task, finding)
        for task, data in run.data.items()
        for finding in _mapping(data.get("findings")).values()
    ]
    if found:
        report.table(Table({"task": None, "finding": None}, found))


def _row(data: Mapping[str, Any], tested: float | None) -> tuple[Any, ...]:
    pictures = _mapping(data.get("pictures"))
    counts = [_number(pictures.get(split)) for split in SPLITS]
    others = [_number(data.get(f)) for f in ("skipped", "repeated_across_splits")]
    between, several = None, SEVERAL in data
    if tested is not None and counts[-1] is not None and not several:
        low, high = interval(tested, int(counts[-1]))
        between = f"{low:.1%} to {high:.1%}"
    constant = data.get(SEVERAL if several else "majority_accuracy")
    return *counts, *others, _number(constant), tested, between


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _number(found: Any) -> float | None:
    return found if isinstance(found, int | float) and found >= 0 else None
