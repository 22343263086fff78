"""The multitask system at a point of a run: the components of each task's path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from evolution.reports.measures import Row, RunRecord


@dataclass(frozen=True, slots=True)
class Route:
    """A task's best path."""

    components: Mapping[str, int]  # name -> id, in forward order
    quality: float | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The best paths, and the task for which the last path was sampled."""

    routes: Mapping[str, Route]
    active: str | None


def final(run: RunRecord) -> Snapshot:
    """The present system."""
    routes = {
        task: Route({c.name: c.id for c in path.components}, path.quality)
        for task, path in run.retained.items()
    }
    sampled = [row["task"] for row in run.rows.values()]
    return Snapshot(routes, sampled[-1] if sampled else None)


def after(run: RunRecord, sampled: int) -> Snapshot:
    """The system after the first `count` (at least 1) of the run's sampled paths.

    A retained path of a task without paths in the history existed before the history.
    """
    met = {row["task"] for row in run.rows.values()}
    best: dict[str, Row] = {}
    active = None
    for row in islice(run.rows.values(), sampled):
        active = row["task"]
        if row.get("components") is not None and _is_best(row, best.get(active)):
            best[active] = row
    routes = {task: Route(row["components"], row.get("quality")) for task, row in best.items()}
    earlier = {task: route for task, route in final(run).routes.items() if task not in met}
    return Snapshot(earlier | routes, active)


def _is_best(row: Row, best: Row | None) -> bool:
    """Whether a path became the best, as recorded; for imports without a record, by quality."""
    if row.get("new_best") is not None:
        return row["new_best"]
    return best is None or (row.get("quality") or 0.0) >= (best.get("quality") or 0.0)
