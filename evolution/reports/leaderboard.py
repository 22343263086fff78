"""The live version of each task in a store: facts, and a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from rich.table import Table

from evolution import state
from evolution.population import accounted_params
from evolution.publication import published_by
from evolution.state import StateError
from evolution.training.objectives import quality_in
from evolution.training.validation import part_of
from model_store import Digest, ModelStore

COLUMNS = ("task", "v", "valid.", "test", "parameters", "accounted", "by")


def leaderboard(store: ModelStore) -> list[dict[str, Any]]:
    """A row for each task, as JSON.

    Accounted parameters are those of the run's present state, as its analysis shows them: tasks
    that came later share components too. Those of agents and of other programs are as published.
    """

    @cache
    def accounted(run: str) -> dict[Digest, float]:
        try:
            progress, population = state.load(store, run)
        except StateError:
            return {}
        paths = [] if progress.agent else population  # an agent's state has its own paths only
        counts = population.score.root_counts
        return {path.published: accounted_params(path, counts) for path in paths if path.published}

    rows = []
    for name in store.tasks():
        published = store.resolve(name)
        path, run = published.path, str(published_by(published.path) or "")
        told = path.parameters.get("accounted")
        rows.append(
            {
                "task": name,
                "version": published.version,
                "private": path.private,
                "validation": quality_in(part_of(path.metrics, "validation")),
                "test": quality_in(part_of(path.metrics, "test")),
                "parameters": path.parameters.get("total"),
                "accounted": accounted(run).get(published.digest, told),
                "by": run.removesuffix(f"/{name}") or None,  # an agent's name is CLASS/TASK
            }
        )
    return rows


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for people."""
    table = Table(*COLUMNS, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    for row in rows:
        table.add_row(
            row["task"] + (" (private)" if row["private"] else ""),
            str(row["version"]),
            _number(row["validation"], ".4f"),
            _number(row["test"], ".4f"),
            _number(row["parameters"], ",d"),
            _number(row["accounted"], ",.0f"),
            row["by"] or "-",
        )
    return table


def _number(value: float | None, form: str) -> str:
    """Paths that no search published may lack it."""
    return "-" if value is None else format(value, form)
