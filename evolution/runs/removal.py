"""Removing a run's own state, where no process runs it."""

from __future__ import annotations

from contextlib import nullcontext

from evolution import state
from evolution.runs import next_commands
from evolution.state import PUBLICATIONS, StateError
from model_store import AgentBusy, DamagedStore, ModelStore


def remove(store: ModelStore, run: str) -> None:
    """Removes the state of a run or an agent, and with the last agent the index of publications.

    Published versions stay, and so does what other runs need: gc removes only what nothing refers
    to. Raises StateError if the name is unknown, or if a live process runs it or will run it.
    """
    if run not in state.runs(store):
        known = ", ".join(state.runs(store)) or "none"
        raise StateError(f"store has no run called {run!r}; runs there: {known}")
    command = next_commands.grown_by(run)
    try:
        with store.hold(run), store.hold(command) if command else nullcontext():
            store.remove_agent(run)
            if PUBLICATIONS in store.agents() and not _agents(store):
                store.remove_agent(PUBLICATIONS)
    except AgentBusy:
        told = store.holder(run)
        doing = "waiting for its turn" if told is None and command else "running"
        told = told or (command and store.holder(command)) or "another process"
        raise StateError(
            f"run {run!r} is {doing}, expected one that nobody runs: held by {told}\n"
            "stop it first (Ctrl-C in its terminal); it is saved after each generation"
        ) from None


def _agents(store: ModelStore) -> bool:
    """Whether there is an agent, or a state that may be one."""
    for name in state.runs(store):
        try:
            document = store.load_agent(name)
        except DamagedStore:
            return True
        if document and document.get("agent"):
            return True
    return False
