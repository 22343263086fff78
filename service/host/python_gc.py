"""Garbage collection in a thread of its own.

Python collects in the thread that happens to allocate next: the event loop would pay for what
others have made, such as the hundreds of thousands of lists of a client's JSON.
"""

from __future__ import annotations

import gc
import threading
import time

LOOK_S, IDLE_LOOK_S = 0.1, 1.0
FEW = 1000  # objects; while fewer are made between two looks, nobody asks for anything
YOUNG = 50_000  # objects more than at the last collection
# Young objects are collected often, old ones hardly ever: a full collection takes milliseconds.
MIDDLE_EVERY, ALL_EVERY = 20, 1000


def start() -> None:
    """Never collects the objects that exist now; collects later ones from now on."""
    gc.collect()
    gc.freeze()
    gc.disable()
    threading.Thread(target=_collect, name="collect", daemon=True).start()


def _collect() -> None:
    done = before = 0
    while True:
        young = gc.get_count()[0]
        time.sleep(IDLE_LOOK_S if abs(young - before) < FEW else LOOK_S)
        before = young
        if gc.get_count()[0] > YOUNG:
            done += 1
            gc.collect(2 if done % ALL_EVERY == 0 else 1 if done % MIDDLE_EVERY == 0 else 0)
