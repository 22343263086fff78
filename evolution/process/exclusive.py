"""Makes this process the only one of a run or an agent; waits for one that is about to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack

from evolution.events import Remark
from model_store import AgentBusy, Held, ModelStore

# How long commands wait for a live holder, which may be told to stop and finish a generation first.
# After a dead holder only its lease in an object store has to run out.
PATIENCE_S = 60.0
POLL_S = 0.2


def hold(
    store: ModelStore, name: str, stack: ExitStack, patience_s: float, stopping: Callable[[], bool]
) -> Generator[Remark, None, Held | None]:
    """Holds the run or agent until the end of the stack; None if told to stop while it waits.

    Raises AgentBusy, naming the holder, if that lives longer than `patience_s`.
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
