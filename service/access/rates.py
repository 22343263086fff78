"""How many requests a token may make: a bucket that fills at its rate and holds its burst."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Bucket:
    """Full at first; each request takes one out; any thread."""

    def __init__(
        self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`rate` is in requests per second, `burst` the most at once."""
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._left = float(burst)
        self._at = clock()

    def take(self) -> float:
        """Takes a request out and returns 0; if none is left, the seconds until there is one."""
        with self._lock:
            now = self._clock()
            self._left = min(self.burst, self._left + (now - self._at) * self.rate)
            self._at = now
            if self._left < 1:
                return (1 - self._left) / self.rate
            self._left -= 1
            return 0.0
