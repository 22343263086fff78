"""Watches the event loop of a server under test; Python imports it if this folder is on its path.

A beat runs every few milliseconds on the loop. Between two of them the loop's thread can use no
more processor time than the pause and the longest turn: other processes do not count. What exceeds
NOTED_S is a line of JSON in the file that LOOP_WATCH names, with what ran meanwhile.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import traceback
from typing import Any

import uvloop

BEAT_S = 0.002
NOTED_S = 0.01
FRAMES = 6  # of the innermost
_file = os.environ["LOOP_WATCH"]
_make = uvloop.new_event_loop


class Watch:
    """One loop's beats, and a thread that looks at what its thread does between late ones."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.last, self.seen = 0.0, ""
        loop.call_soon(self.start)

    def start(self) -> None:
        """On the loop's thread."""
        self.thread = threading.get_ident()
        self.clock = time.pthread_getcpuclockid(self.thread)
        self.note(0.0)  # that there is a watch
        gc.callbacks.append(self.collecting)
        self.last = time.thread_time()
        threading.Thread(target=self.look, daemon=True).start()
        self.loop.call_later(BEAT_S, self.beat)

    def beat(self) -> None:
        """Also on the loop's thread."""
        used = time.thread_time() - self.last
        if used > NOTED_S:
            self.note(used)
        self.seen = ""
        self.last = time.thread_time()
        self.loop.call_later(BEAT_S, self.beat)

    def collecting(self, phase: str, info: dict[str, int]) -> None:
        """Called around a garbage collection, by the thread that runs it."""
        if threading.get_ident() == self.thread:
            used = time.thread_time() - self.last
            self.seen = f"collection {info['generation']} {phase} at {used:.3f} s; {self.seen}"

    def note(self, used: float) -> None:
        """A line in the file."""
        turn = {"at": time.monotonic(), "cpu_s": used, "where": self.seen}
        with open(_file, "a") as file:
            file.write(json.dumps(turn) + "\n")

    def look(self) -> None:
        """In a thread of its own: the stack of a turn that is long already."""
        while not self.loop.is_closed():
            time.sleep(BEAT_S)
            if ">" not in self.seen and time.clock_gettime(self.clock) - self.last > NOTED_S:
                frame = sys._current_frames().get(self.thread)
                lines = traceback.extract_stack(frame)[-FRAMES:]
                self.seen += " > ".join(f"{one.filename}:{one.lineno} {one.name}" for one in lines)


def _watched() -> Any:
    loop = _make()
    Watch(loop)
    return loop


uvloop.new_event_loop = _watched
