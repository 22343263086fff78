"""What a gateway does at this moment: the stacks of all threads, and the waiting requests.

For the person who is called when a gateway hangs. Nothing here waits for anything that may hang:
of a lock that is not free soon, the dump says so.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from service.compute.batching import Batcher

logger = logging.getLogger(__name__)
MOST_FRAMES = 40  # of a thread, the innermost
MOST_REQUESTS = 100  # the ones that have waited longest
PATIENCE_S = 0.2  # for the queue's lock
SIGNAL = signal.SIGUSR1
PIPE_BYTES, WHOLE_S = 1 << 16, 0.1  # what is written at a signal, and within which time


def stacks() -> list[dict[str, Any]]:
    """Name and frames of each thread of Python's, the innermost frame last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return [
        {
            "thread": names.get(ident, f"unknown {ident}"),
            "frames": [
                f"{frame.filename}:{frame.lineno} {frame.name}"
                for frame in traceback.StackSummary.extract(
                    traceback.walk_stack(frame), limit=MOST_FRAMES, lookup_lines=False
                )
            ][::-1],
        }
        for ident, frame in sys._current_frames().items()  # pyright: ignore[reportPrivateUsage]
    ]


def queue(batcher: Batcher[Any, Any]) -> dict[str, Any]:
    """What waits for the engine, the oldest first."""
    waiting = batcher.waiting(PATIENCE_S)
    if waiting is None:
        return {"error": f"its lock was not free for {PATIENCE_S:g} s"}
    now = time.monotonic()
    return {
        "rows": len(batcher),
        "requests": len(waiting),
        "oldest": [
            {
                "tasks": list(request.ask.tasks),
                "priority": request.ask.level,
                "caller": request.ask.caller,
                "waited_s": round(now - request.since, 3),
                "deadline_in_s": round(request.ask.deadline - now, 3),
            }
            for request in waiting[:MOST_REQUESTS]
        ],
    }


def made(batcher: Batcher[Any, Any]) -> dict[str, Any]:
    """All of it, of this process."""
    return {"process": os.getpid(), "queue": queue(batcher), "threads": stacks()}


def follow(make: Callable[[], dict[str, Any]]) -> None:
    """From now on, a SIGUSR1 to this process logs what `make` returns.

    Python runs its own handlers in the main thread, which may be the one that hangs. So
    faulthandler takes the signal: it writes at once, and that wakes a thread that waits for it.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # it writes amid anything, and must not wait
    faulthandler.register(SIGNAL, file=writing, all_threads=False)

    def wait() -> None:
        while os.read(reading, PIPE_BYTES):
            time.sleep(WHOLE_S)
            os.set_blocking(reading, False)
            with suppress(BlockingIOError):  # the rest of what it wrote
                os.read(reading, PIPE_BYTES)
            os.set_blocking(reading, True)
            try:
                logger.warning("event=dump", extra={"fields": make()})
            except Exception:
                logger.exception("event=dump_failed")

    threading.Thread(target=wait, name="dump", daemon=True).start()
