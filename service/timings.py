"""Where the time of a request goes.

Law: from its start to its end a request, with all its tasks, is in exactly one stage at any time.
A stage ends where the next one begins, so the times of the stages sum to the whole, however the
request ends: answered, refused or failed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping

STAGES: tuple[str, ...] = ("receive", "decode", "load", "queue", "execute", "answer")
TOTAL = "total"
_OF_THREADS = ("queue", "execute", "answer")
_NOTHING: Mapping[str, float] = dict.fromkeys((*STAGES, TOTAL), 0.0)


class Timings:
    """When a request came into which stage; times of `time.monotonic`.

    It is in the stage of the last mark, and changes by `enter` on the event loop's thread. The
    threads that make its rows and run them only set the three times below, which `follow` takes in:
    what they do after the request was given up changes nothing.
    """

    __slots__ = ("ended", "marks", "queued", "ran", "running")

    def __init__(self, started: float | None = None) -> None:
        """`started` is when the request came; now, if it is not given."""
        self.marks: list[tuple[str, float]] = [
            ("receive", time.monotonic() if started is None else started)
        ]
        self.queued = math.inf  # its rows wait for a batch
        self.running = math.inf  # the batch that they are in has begun
        self.ran = math.inf  # nothing more is done for it
        self.ended = math.inf  # the last byte of its answer is written

    @property
    def started(self) -> float:
        """When the request came."""
        return self.marks[0][1]

    @property
    def stage(self) -> str:
        """In which it is."""
        return self.marks[-1][0]

    def begin(self, started: float) -> None:
        """It came at this time."""
        self.marks[0] = (self.marks[0][0], started)

    def enter(self, stage: str) -> float:
        """It is in this stage from now on; the time."""
        now = time.monotonic()
        if self.marks[-1][0] != stage:
            self.marks.append((stage, now))
        return now

    def follow(self) -> None:
        """Takes in what threads have done for it since it was in the stage `decode`."""
        at = self.marks[-1][1]
        times = self.queued, self.running, self.ran
        for stage, began in zip(_OF_THREADS, times, strict=True):
            if at <= began < math.inf:
                self.marks.append((stage, began))
                at = began

    def spans(self, ended: float) -> Iterator[tuple[str, float, float]]:
        """Name, start and end of each stage that it was in, one after the other, up to a time."""
        stage, began = self.marks[0]
        for following, at in self.marks[1:]:
            yield stage, began, at
            stage, began = following, at
        yield stage, began, ended

    def seconds(self, ended: float | None = None) -> dict[str, float]:
        """In each stage, and in `total`; up to now, if no end is given."""
        ended = time.monotonic() if ended is None else ended
        found = dict(_NOTHING)
        stage, began = self.marks[0]
        found[TOTAL] = ended - began
        for following, at in self.marks[1:]:
            found[stage] += at - began
            stage, began = following, at
        found[stage] += ended - began
        return found
