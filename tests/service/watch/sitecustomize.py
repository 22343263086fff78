"""Watches the event loop of a server under test; Python imports it if this folder is on its path.

A beat runs every few milliseconds on the loop. Between two of them the loop's thread can use no
more processor time than the pause and the longest turn: other processes do not count. What exceeds
NOTED_S is a line of JSON in the file that LOOP_WATCH names, with what ran meanwhile. All that is
done only while a file of that name and `.wanted` is there.
"""

from __future__ import annotations

import contextlib
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
ASK_S = 0.1  # between looks whether turns are to be watched
NOTED_S = 0.01
FRAMES = 6  # of the innermost
_file = os.environ["LOOP_WATCH"]
_make = uvloop.new_event_loop


class Watch:
    """One loop's beats, and a thread that looks at what its thread does between late ones."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.last, self.seen = 0.0, ""
        self.wanted = 0  # since when turns are to be watched
        loop.call_soon(self.start)

    def start(self) -> None:
        """On the loop's thread."""
        self.thread = threading.get_ident()
        self.clock = time.pthread_getcpuclockid(self.thread)
        gc.callbacks.append(self.collecting)
        self.go_on()
        threading.Thread(target=self.look, daemon=True).start()

    def begin(self) -> None:
        """Also on the loop's thread: beats as long as that is wanted."""
        if not self.wanted:
            self.go_on()

    def beat(self) -> None:
        """Also on the loop's thread."""
        used = time.thread_time() - self.last
        if used > NOTED_S:
            self.note(used)
        self.go_on()

    def go_on(self) -> None:
        before, self.wanted, self.seen = self.wanted, _asked(), ""
        if self.wanted:
            if self.wanted != before:
                self.note(0.0)  # that it is watched from now on
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
            if not self.wanted:
                time.sleep(ASK_S)
                if _asked():
                    self.ask()
                continue
            time.sleep(BEAT_S)
            if ">" not in self.seen and time.clock_gettime(self.clock) - self.last > NOTED_S:
                frame = sys._current_frames().get(self.thread)
                lines = traceback.extract_stack(frame)[-FRAMES:]
                self.seen += " > ".join(f"{one.filename}:{one.lineno} {one.name}" for one in lines)

    def ask(self) -> None:
        """Has the loop's thread begin, and waits until it has."""
        begun = threading.Event()

        def begin() -> None:
            self.begin()
            begun.set()

        with contextlib.suppress(RuntimeError):  # the loop has just ended
            self.loop.call_soon_threadsafe(begin)
            begun.wait(ASK_S)


def _asked() -> int:
    """A number for each time that somebody wants to know; 0 while nobody does."""
    try:
        return os.stat(f"{_file}.wanted").st_mtime_ns
    except OSError:
        return 0


def _watched() -> Any:
    loop = _make()
    Watch(loop)
    return loop


uvloop.new_event_loop = _watched
