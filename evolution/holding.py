"""Being the only process of a run or an agent, after one that is about to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack

from evolution.outcome import Remark
from model_store import AgentBusy, Held, ModelStore

# How long commands wait for a holder that lives: for the generation that one which was told to stop
# ends first. One that is dead is not waited for, but for its lease in an object store.
PATIENCE_S = 60.0
POLL_S = 0.2


def hold(
    store: ModelStore, name: str, stack: ExitStack, patience_s: float, stopping: Callable[[], bool]
) -> Generator[Remark, None, Held | None]:
    """Holds the run or agent until the end of the stack; None if it was told to stop meanwhile.

    Raises AgentBusy, naming its holder, if that one lives for longer than `patience_s`.
    """
    until, told = time.monotonic() + patience_s, False
    while not stopping():
        try:
            return stack.enter_context(store.hold(name))
        except AgentBusy as error:
            if time.monotonic() >= until:
                raise
            if not told:
                told = True
                yield Remark(f"{error}; waiting up to {patience_s:.0f} s for it to end")
        time.sleep(POLL_S)
    return None
