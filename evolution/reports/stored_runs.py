"""From the runs of a store to pages: one run gives one, several a comparison that links to theirs.

Everything comes from the store: the saved states, and test qualities of published versions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from evolution import state
from evolution.reports import comparison_page, figures, folder, run_page
from evolution.reports.decision import Line, decision
from evolution.reports.measures import RunRecord, run_of
from evolution.state import StateError
from evolution.training.objectives import OBJECTIVES, quality_in
from evolution.training.validation import part_of
from model_store import ModelStore, TaskPath, UnknownTask
from vit.activation import activation_of

logger = logging.getLogger(__name__)


class Analysis(NamedTuple):
    """What `analyse` wrote."""

    page: Path  # the index
    decision: Sequence[Line]  # which experiment is best; of one experiment there is nothing to say


def analyse(store: ModelStore, out: Path, runs: Sequence[str] = ()) -> Analysis:
    """Writes the analysis of these runs, or of all in the store, to `out`.

    Replaces an earlier analysis there. Raises StateError for unknown runs, and FileExistsError if
    `out` holds files that no analysis wrote.
    """
    names = list(dict.fromkeys(runs)) or state.runs(store)
    if not names:
        raise StateError(
            f"analysing store {store.url}: expected at least one run, found none; "
            "`munet experiments run` makes one"
        )
    loaded = [load(store, name) for name in names]
    several = len(loaded) > 1
    pages = {run.name: _page_name(i, run.name) if several else "." for i, run in enumerate(loaded)}
    with folder.replacing(out) as new, figures.style():
        for run in loaded:
            run_page.write(run, new / pages[run.name])
            logger.info("event=analysed run=%s page=%s", run.name, pages[run.name])
        if several:
            comparison_page.write(loaded, pages, new)
    groups = comparison_page.groups_of(loaded)
    return Analysis(out / "index.html", decision(groups) if len(groups) > 1 else ())


def _page_name(i: int, run: str) -> str:
    """A directory's name; the number makes it unique."""
    return f"{i + 1:02d}-{run.replace('/', '_')}"


def load(store: ModelStore, name: str) -> RunRecord:
    """A run of the store in its present state; raises StateError."""
    progress, population = state.load(store, name)
    run = run_of(
        name, progress.experiment, progress.seed, progress.history, population, progress.settings,
        progress.environments,
    )  # fmt: skip
    for task, path in run.retained.items():
        version = _published(store, task, path.published)
        if version is None:
            continue
        run.metrics[task] = OBJECTIVES[activation_of(version.extra)].metric
        if run.test[task] is None:
            run.test[task] = quality_in(part_of(version.metrics, "test"))
        if isinstance(data := version.extra.get("data"), Mapping):
            run.data[task] = data
    return run


def _published(store: ModelStore, task: str, manifest: str | None) -> TaskPath | None:
    """The version that a path was published as."""
    if manifest is None:
        return None
    try:
        versions = store.history(task)
    except UnknownTask:
        return None
    return next((found.path for found in versions if found.digest == manifest), None)
