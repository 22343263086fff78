"""Requests of each task lately, from the counters that the metrics keep anyway.

Nothing is added to a request. What was counted is noted when somebody looks, at most once in
APART_S; what came since the note of about WINDOW_S ago is what came lately.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from service.metrics.task_requests import Counted

WINDOW_S, APART_S = 60.0, 10.0
NOTHING = Counted({}, ())
Counts = Mapping[str, Counted]


@dataclass(frozen=True, slots=True)
class Lately:
    """Requests of one task in the last `seconds`."""

    seconds: float
    requests: int
    refused: int  # with a status of 4xx
    failed: int  # 5xx
    p50_ms: float | None  # of those that were classified
    p99_ms: float | None

    def content(self) -> dict[str, float | None]:
        """As JSON."""
        return {
            "seconds": round(self.seconds, 1),
            "requests": self.requests,
            "refused": self.refused,
            "failed": self.failed,
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
        }


class Traffic:
    """What each task was asked lately; any thread."""

    def __init__(
        self,
        counted: Callable[[], Counts],
        bounds: Sequence[float],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`bounds` are the upper ones of the buckets of seconds."""
        self._counted = counted
        self._bounds = tuple(bounds)
        self._clock = clock
        self._lock = threading.Lock()
        self._notes: deque[tuple[float, Counts]] = deque([(clock(), {})])

    def lately(self) -> dict[str, Lately]:
        """By task; tasks without a request are left out."""
        now, counts = self._clock(), self._counted()
        with self._lock:
            since, before = self._noted(now, counts)
        changes = {
            task: self._between(before.get(task, NOTHING), count, max(now - since, 1e-3))
            for task, count in counts.items()
        }
        return {task: change for task, change in changes.items() if change.requests > 0}

    def _noted(self, now: float, counts: Counts) -> tuple[float, Counts]:
        """What to compare with: the newest note that is old enough, else the oldest."""
        while len(self._notes) > 1 and now - self._notes[1][0] >= WINDOW_S:
            self._notes.popleft()
        found = self._notes[0]
        last, known = self._notes[-1]
        if now - last >= APART_S:
            same = {task: known[task] for task in counts if known.get(task) == counts[task]}
            self._notes.append((now, {**counts, **same}))  # what did not change is kept once
        return found

    def _between(self, before: Counted, after: Counted, seconds: float) -> Lately:
        came = {
            status: count - before.statuses.get(status, 0)
            for status, count in after.statuses.items()
        }
        earlier = before.buckets or (0,) * len(after.buckets)
        buckets = [late - early for late, early in zip(after.buckets, earlier, strict=True)]
        return Lately(
            seconds=seconds,
            requests=sum(came.values()),
            refused=sum(count for status, count in came.items() if 400 <= status < 500),
            failed=sum(count for status, count in came.items() if status >= 500),
            p50_ms=self._quantile_ms(buckets, 0.5),
            p99_ms=self._quantile_ms(buckets, 0.99),
        )

    def _quantile_ms(self, buckets: Sequence[int], part: float) -> float | None:
        """Linear within a bucket, as Prometheus does; the last bucket counts as its lower bound."""
        wanted = part * sum(buckets)
        if not wanted:
            return None
        below, lower = 0, 0.0
        for count, upper in zip(buckets, self._bounds, strict=False):
            if below + count >= wanted:
                return round(1e3 * (lower + (upper - lower) * (wanted - below) / count), 3)
            below, lower = below + count, upper
        return round(1e3 * lower, 3)
