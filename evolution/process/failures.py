"""The error that ended a run or an agent is kept with its state, to be shown later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from evolution import state
from evolution.training.memory import exhausted
from model_store import AgentBusy, AgentMoved, LeaseLost, ModelStore

LONGEST = 300  # characters


@contextmanager
def failures_kept(store: ModelStore, name: str) -> Iterator[None]:
    """Wraps all work on a run, and saves an error with the run's last state.

    Nothing else in the state changes, so the run continues as after a kill. The next state that is
    saved no longer has the error. If nothing can be saved, the error is not kept.
    """
    try:
        yield
    except (AgentBusy, AgentMoved, LeaseLost):
        raise  # the state is another process's
    except Exception as error:
        with suppress(Exception):
            _keep(store, name, error)
        raise


def _keep(store: ModelStore, name: str, error: Exception) -> None:
    found = store.agent_state(name)
    if found is None:
        return
    digest, document = found
    why = exhausted(error) or str(error) or type(error).__name__
    document["failure"] = {"why": why[:LONGEST], "ended": time.time()}
    store.save_agent(name, document, state.needed(document), replacing=digest)
