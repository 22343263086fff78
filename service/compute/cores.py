"""How many batches may run at the same time: as many as there are cores that nothing else needs.

The event loop and decoding of the same process go first. When they need a core, as during a flood
of refused requests, one more batch would only compete with them: requests would wait longer, and
fewer would be answered.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from service.compute.tuning import FLOOD, HELD_S, SPARED, WINDOW_S


class Cores:
    """For one thread at a time."""

    def __init__(
        self,
        cores: int,
        rest_s: Callable[[], float],
        came: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        """`rest_s` says how many seconds of processor time all but the batches have taken; `came`
        says how many requests came, and how many of them were admitted.
        """
        self._cores = cores
        self._rest_s = rest_s
        self._came = came
        self._before_came = came()
        self._flooded = -math.inf  # when it was last
        self._since = self._before = 0.0
        self._free = cores

    def free(self, now: float) -> int:
        """For batches, at this time of a clock in seconds: at least one, at most all."""
        passed = now - self._since
        if passed >= WINDOW_S:
            rest_s, came = self._rest_s(), self._came()
            taken = (rest_s - self._before) / passed
            (asked, let_in), (asked_before, let_in_before) = came, self._before_came
            if asked - asked_before > FLOOD * (let_in - let_in_before):
                self._flooded = now
            most = self._cores - (now - self._flooded < HELD_S)
            self._free = max(1, min(most, int(self._cores - taken + SPARED)))
            self._since, self._before, self._before_came = now, rest_s, came
        return self._free


def own_clock() -> int | None:
    """The clock of the calling thread's processor time; None if the system has none.

    Call it only in a running thread: for one that has ended, the C library reads memory that is
    not there.
    """
    clock_of = getattr(time, "pthread_getcpuclockid", None)
    return None if clock_of is None else clock_of(threading.get_ident())


def seconds_of_others(clocks: Iterable[int]) -> float:
    """Processor time of this process, without the threads of these clocks."""
    seconds = time.process_time()
    for clock in clocks:
        with suppress(OSError):  # the thread has ended
            seconds -= time.clock_gettime(clock)
    return seconds
