"""The runs and agents of a store: the progress of each, and the command that continues it.

A run is `running` while a live process holds it (model_store.ModelStore.holder). After a kill it is
`stopped` at once in a directory, and in an object store when its lease has run out (two minutes).
It is `waiting` while a live command trains it later, as the baseline of `munet evolve` after its
search. Everything is read from saved states, so it can be read anywhere while the run continues: a
run saves after each generation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np

from evolution import state
from evolution.data.tasks import task_name
from evolution.events import child_of
from evolution.population import ROOT
from evolution.runs import next_commands
from model_store import DamagedStore, ModelStore

RunState = Literal["running", "waiting", "stopped", "finished", "failed", "imported", "unreadable"]
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Listed:
    """One run or agent."""

    name: str
    state: RunState
    task: str = ""  # the present or next one; the last one of a finished run
    number: int = 0  # of the task in the schedule, from 1; of an agent, of the cycle
    tasks: int | None = None  # in the schedule; None for an agent, which has no end
    child: int = 0  # children of the task that are trained and saved
    children: int = 0  # of the task, in all
    at_most: bool = False  # there may be fewer children: a budget ends them
    best: float | None = None  # validation quality of the task's best path so far
    left_s: float | None = None  # to the end of the run, or of the agent's cycle
    command: str = ""  # the one that continues it
    holder: str | None = None  # the process that runs it, or that it waits for
    why: str = ""  # it failed, or cannot be read

    @property
    def progress(self) -> str:
        """As `child 3 of 24`, with the task's number where there are several."""
        told = child_of(self.child, self.children, at_most=self.at_most)
        if self.tasks is None:
            return f"cycle {self.number}, {told}"
        return told if self.tasks == 1 else f"task {self.number} of {self.tasks}, {told}"


def listed(store: ModelStore) -> list[Listed]:
    """The runs and agents of a store, by name."""
    return [look(store, name) for name in state.runs(store)]


def look(store: ModelStore, name: str) -> Listed:
    """One run or agent. Raises StateError if the name is unknown."""
    try:
        _, document = state.saved(store, name)
    except DamagedStore as error:
        return Listed(name, "unreadable", why=str(error))
    if document.get("format") != state.FORMAT:
        why = f"saved in format {document.get('format')}, this version reads {state.FORMAT}"
        return Listed(name, "unreadable", why=why)
    if not document["settings"]:
        tasks = {path["task"] for path in document["paths"] if path["owner"] != ROOT}
        return Listed(
            name, "imported", tasks=len(tasks), command=next_commands.extend(name, store.url)
        )
    return _Look(store, name, document).listed()


class _Look:
    """Reads a saved state of this version."""

    def __init__(self, store: ModelStore, name: str, document: Document) -> None:
        self._store, self._name, self._document = store, name, document
        self._agent = bool(document.get("agent"))
        schedule, settings = document["schedule"], document["settings"]
        self._children: int = settings["samples_per_task"]
        iteration = document["iteration"]
        self._finished = iteration >= len(schedule)
        if self._agent:  # between two cycles
            self._finished = iteration > 0 and not document.get("snapshot")
        at = 0 if self._agent else min(iteration, len(schedule) - 1)
        self._entry = schedule[at] if schedule else ""
        self._number = iteration if self._finished else iteration + 1
        each = settings.get("children_per_generation", 1)
        self._at_most = settings.get("budget_s") is not None
        self._done = min(document["generation"] * each, self._children)
        if self._finished:
            if self._at_most:
                rows = _newest_rows(store, document)
                self._children = sum(row["iteration"] == iteration - 1 for row in rows)
                self._at_most = False  # the number is known by now
            self._done = self._children

    def listed(self) -> Listed:
        """The run for printing."""
        document, task = self._document, task_name(self._entry) if self._entry else ""
        told, holder = self._state()
        return Listed(
            name=self._name,
            state=told,
            task=task,
            number=self._number,
            tasks=None if self._agent else len(document["schedule"]),
            child=self._done,
            children=self._children,
            at_most=self._at_most,
            best=_best(document, task),
            left_s=self._left_s(),
            command=self._command(task),
            holder=holder,
            why=document.get("failure", {}).get("why", ""),
        )

    def _state(self) -> tuple[RunState, str | None]:
        """The state, and the process that runs it or that it waits for."""
        if (holder := self._store.holder(self._name)) is not None:
            return "running", holder
        if self._document.get("failure"):
            return "failed", None
        if self._finished:
            return "finished", None
        command = next_commands.grown_by(self._name)
        holder = self._store.holder(command) if command else None
        return ("waiting" if holder else "stopped"), holder

    def _command(self, task: str) -> str:
        store, document = self._store.url, self._document
        if self._agent:
            cycles = document["iteration"] + 1
            return next_commands.agents(self._name, self._entry, cycles, store)
        if self._name.startswith(next_commands.GROWN):
            return next_commands.evolve(task, store)
        return next_commands.resume(self._name, store, "TASK" if self._finished else None)

    def _left_s(self) -> float | None:
        """Seconds left, by the mean of the children so far, of this task if there are some."""
        if self._finished:
            return 0.0
        rows = _newest_rows(self._store, self._document)
        own = [row for row in rows if row.get("iteration") == self._document["iteration"]]
        taken = [row["seconds"] for row in own or rows if row.get("seconds") is not None]
        if not taken:
            return None
        further = 0 if self._agent else len(self._document["schedule"]) - self._number
        left = fmean(taken) * (self._children * (1 + further) - self._done)
        budget = self._document["settings"].get("budget_s")
        if budget is not None:
            left = min(left, max(0.0, budget - sum(r["seconds"] for r in own)) + budget * further)
        return left


def _best(document: Document, task: str) -> float | None:
    own = document.get("agent")
    qualities = [
        path["quality"]
        for path in document["paths"]
        if path["task"] == task
        and path["quality"] is not None
        and (not own or path["owner"].startswith(own))
    ]
    return max(qualities, default=None)


def _newest_rows(store: ModelStore, document: Document) -> Sequence[Mapping[str, Any]]:
    """Rows of the present task or the one before it, not all of a long history."""
    if document["history"] or not document["archive"]:
        return document["history"]
    return json.loads(np.asarray(store.component(document["archive"][-1])).tobytes())
