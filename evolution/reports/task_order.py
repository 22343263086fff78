"""How runs do as their tasks come one after the other, and paired differences between groups.

A path's own cost is what its task added: components that no earlier path had, and the pictures
that it and its ancestors of the same task were trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations
from typing import Any, TypeVar

from evolution.reports import figures, measures
from evolution.reports.decision import Groups, difference
from evolution.reports.html_page import Report, Table, accuracy, integer
from evolution.reports.measures import Row, RunRecord

PARTS = 3  # of the order of the tasks
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Addition:
    """A task as it came to a run; None where unknown."""

    task: str
    test: float | None
    params: int  # of components that no earlier path had
    images: float | None  # trained on for the retained path, each time counted


def additions(run: RunRecord) -> list[Addition]:
    """The run's tasks in the order in which it met them."""
    owners = measures.first_owners(run)
    batch = run.settings.get("batch_size")
    return [
        Addition(
            task,
            run.test.get(task),
            sum(c.num_params for c in path.components if owners[c.id] == task),
            None if batch is None else batch * _steps(run, task),
        )
        for task, path in run.retained.items()
    ]


def _steps(run: RunRecord, task: str) -> int:
    """Training steps of the retained path and of its ancestors that are the task's own."""
    rows: list[Row] = [
        run.rows[i] for i in measures.chain(run, run.retained[task]) if i in run.rows
    ]
    return sum((row.get("training") or {}).get("steps", 0) for row in rows if row["task"] == task)


def in_part(run: RunRecord, part: int) -> RunRecord:
    """The run with the test qualities of one part of its tasks only; parts count from 0."""
    kept = _in_part(list(run.retained), part)
    return replace(run, test={task: run.test.get(task) for task in kept})


def _in_part(ordered: Sequence[T], part: int) -> list[T]:
    return [one for i, one in enumerate(ordered) if PARTS * i // len(ordered) == part]


# ---- the page


def write(report: Report, groups: Groups) -> None:
    """Adds the section's contents to a page."""
    _courses(report, groups)
    _parts(report, groups)
    _differences(report, groups)


def _courses(report: Report, groups: Groups) -> None:
    courses: dict[str, Callable[[list[Addition]], list[float]]] = {
        "mean test quality so far": lambda found: _means([a.test for a in found]),
        "parameters added so far": lambda found: list(accumulate(float(a.params) for a in found)),
        "images trained on so far": lambda found: list(accumulate(a.images or 0.0 for a in found)),
    }
    charts = {
        name: {
            group: measures.mean_of_curves([course(additions(run)) for run in runs])
            for group, runs in groups.items()
        }
        for name, course in courses.items()
    }
    colours = figures.group_colours(list(groups))
    report.key(colours)
    report.figure(
        figures.group_task_curves(charts, colours),
        "task_order",
        "By the number of tasks met: mean over replicas, with one standard deviation. Parameters "
        "are those of components that no earlier path had; images are those that the retained "
        "path and its ancestors of the same task were trained on, each time counted.",
    )


def _means(values: Sequence[float | None]) -> list[float]:
    sums = accumulate(math.nan if value is None else value for value in values)
    return [total / count for count, total in enumerate(sums, 1)]


def _parts(report: Report, groups: Groups) -> None:
    rows: list[tuple[Any, ...]] = []
    for group, runs in groups.items():
        found = [additions(run) for run in runs]
        for part in range(PARTS):
            here = [addition for tasks in found for addition in _in_part(tasks, part)]
            columns = ([a.test for a in here], [a.params for a in here], [a.images for a in here])
            rows.append((group, f"{part + 1} of {PARTS}", *map(measures.mean, columns)))
    columns = {"experiment": None, "part of the tasks": None, "test": accuracy}
    costs = {"parameters added": integer, "images trained on": integer}
    report.table(Table({**columns, **costs}, rows), "task_order")


def _differences(report: Report, groups: Groups) -> None:
    rows = [
        (first, second, f"{part + 1} of {PARTS}", found.tasks, found.mean, found.low, found.high)
        for (first, ours), (second, theirs) in combinations(groups.items(), 2)
        for part in range(PARTS)
        for found in (
            difference([in_part(r, part) for r in ours], [in_part(r, part) for r in theirs]),
        )
        if found is not None
    ]
    if not rows:
        return
    report.text(
        "How much better the first is than the second by test quality, on the tasks that runs of "
        "one seed have in the same part, with the 95 % interval over tasks."
    )
    columns = {"first": None, "second": None, "part of the tasks": None, "tasks": integer}
    numbers = {"better by": accuracy, "from": accuracy, "to": accuracy}
    report.table(Table({**columns, **numbers}, rows), "task_order_differences")
