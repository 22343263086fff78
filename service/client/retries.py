"""When a request is sent again, and when it is given up.

A gateway that refuses for a while says so with 429 or 503, and in `Retry-After` for how long: no
request is sent before that. Without that header pauses double. All pauses are longer by a random
part, so that clients that were refused together do not come back together. A request that would be
sent after its whole time is given up at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

SHORTEST_S = 0.1
JITTER = 0.25  # of a pause, at most, is added to it


@dataclass(frozen=True, slots=True)
class Retries:
    """How long a client goes on asking."""

    total_s: float = 60.0  # from a request's first try to its last
    first_s: float = 0.5  # pause where nothing says how long; doubled each time
    longest_s: float = 15.0  # of such a pause
    statuses: tuple[int, ...] = (429, 503)
    unreached: bool = True  # also where no connection was made
    # In their place, tests have others.
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    wall_clock: Callable[[], float] = field(default=time.time, repr=False)
    draw: Callable[[], float] = field(default=random.random, repr=False)  # from 0 to 1


class Attempts:
    """The tries of one request."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._until = retries.clock() + retries.total_s
        self._pause_s = retries.first_s

    def again_unreached(self) -> float | None:
        """Seconds until the next try after no connection was made; None: give up."""
        return self._again(None) if self._retries.unreached else None

    def again(self, status: int, retry_after: str | None) -> float | None:
        """Seconds until the next try after a refusal; None: give up."""
        return self._again(retry_after) if status in self._retries.statuses else None

    def _again(self, retry_after: str | None) -> float | None:
        wanted_s = self._asked_for(retry_after)
        if wanted_s is None:
            wanted_s = self._pause_s
            self._pause_s = min(2 * self._pause_s, self._retries.longest_s)
        pause_s = max(SHORTEST_S, wanted_s) * (1 + JITTER * self._retries.draw())
        return pause_s if self._retries.clock() + pause_s <= self._until else None

    def _asked_for(self, retry_after: str | None) -> float | None:
        """Seconds in a `Retry-After` header, which has a number of them or a date."""
        if retry_after is None:
            return None
        with suppress(ValueError):
            seconds = float(retry_after)
            return seconds if 0 <= seconds < float("inf") else None
        with suppress(ValueError, TypeError, OverflowError):
            return max(
                0.0, parsedate_to_datetime(retry_after).timestamp() - self._retries.wall_clock()
            )
        return None
