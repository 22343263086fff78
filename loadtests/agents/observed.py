"""The costs of children, from the histories of measured runs."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from evolution import state
from evolution.population import ROOT
from evolution.state import StateError
from loadtests.agents.measuring import Child
from loadtests.agents.simulation import Work
from model_store import ModelStore

PARAMETER_BYTES = 4


def observed(store: ModelStore, names: Sequence[str] = ()) -> tuple[Work, Child]:
    """The times of children of these runs or agents, or of all, and a child of typical size.

    Raises StateError if there is no child.
    """
    histories = {name: state.load(store, name)[0].history for name in names or state.runs(store)}
    rows = [row for history in histories.values() for row in history]
    if not rows:
        raise StateError(
            f"measuring children in {store.url}: expected the history of a run or an agent, found"
            " none; `munet experiments run` or `agents` makes one"
        )
    generations = Counter(
        ((name, row["task"], row["iteration"]), row["generation"])
        for name, history in histories.items()
        for row in history
    )
    cycles = Counter(cycle for cycle, _ in generations)
    better = {
        (name, row["task"], row["iteration"])
        for name, history in histories.items()
        for row in history
        if row["new_best"]
    }
    work = Work(
        child_seconds=[row["seconds"] for row in rows],
        foreign=statistics.fmean(row["parent_task"] not in (row["task"], ROOT) for row in rows),
        kept=statistics.fmean(row["improved"] for row in rows),
        published=len(better) / len(cycles),
        generations=statistics.median_high(cycles.values()),
        children=statistics.median_high(generations.values()),
    )
    child = Child(
        components=statistics.median_high(len(row["components"]) for row in rows),
        trained=max(statistics.median_high(len(row["trained"]) for row in rows), 1),
        trained_bytes=PARAMETER_BYTES
        * statistics.median_high(row["trainable_params"] for row in rows),
    )
    return work, child
