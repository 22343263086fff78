"""Why a run or an agent ended before its end: kept with its state, for those who look later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from evolution import state
from evolution.memory import exhausted
from model_store import AgentBusy, AgentMoved, LeaseLost, ModelStore

LONGEST = 300  # characters


@contextmanager
def failures_kept(store: ModelStore, name: str) -> Iterator[None]:
    """Around all that the holder of a run does: an error stays with what was saved last.

    The state is not changed otherwise, so that it goes on as if it had been killed; the next one
    that is saved says nothing of the failure. Where nothing can be saved, nothing is kept.
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
