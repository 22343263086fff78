"""How fast the engine is, learned from the batches it ran; and from it, how large they should be.

Seconds per unit of work are kept by bucket: the power of two that a batch's rows fit into. Means of
the last batches without the slowest: one pause changes nothing, a machine that has become slower or
faster is noticed after a handful. Forecasts are of the time that passes. How large a batch should
be is chosen by the processor's time that it takes: other work on the machine does not change that.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection

from service.compute.tuning import (
    CONCURRENT,
    ENOUGH,
    FREE,
    KEPT,
    LEAST,
    SHORT,
    TRY_EVERY,
    WORTHWHILE,
)


class _Means(dict[int, float]):
    """Of the last batches: bucket -> seconds per unit of work."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[int, deque[float]] = {}

    def note(self, bucket: int, seconds: float) -> None:
        kept = self._kept.setdefault(bucket, deque(maxlen=KEPT))
        kept.append(seconds)
        self[bucket] = mean_but_worst(kept)

    def believes(self, bucket: int) -> bool:
        return len(self._kept.get(bucket, ())) >= ENOUGH


class Throughput:
    """Estimates, for one thread at a time."""

    def __init__(self, most_rows: int) -> None:
        """`most_rows` is the largest batch, a power of two."""
        self._most = most_rows
        self._passed, self._costs = _Means(), _Means()
        self._bucket = 1  # of full batches
        self._each_s = 0.0  # of a unit of work that is done in them
        self._tries = 0

    def note(self, rows: int, work: float, seconds: float, cost_s: float) -> None:
        """A batch of this many rows and this work took `seconds`, and `cost_s` of a processor."""
        bucket = _bucket(rows)
        self._passed.note(bucket, seconds / work)
        self._costs.note(bucket, cost_s / work)
        self._bucket = self._smallest(WORTHWHILE)
        self._each_s = self.seconds(self._bucket, 1.0)

    def _smallest(self, part: float) -> int:
        """The smallest batch that reaches this part of the best throughput."""
        known = {size: cost for size, cost in self._costs.items() if self._costs.believes(size)}
        least = min(known.values(), default=0.0)
        return min((size for size, s in known.items() if s * part <= least), default=1)

    def seconds(self, rows: int, work: float) -> float:
        """A batch's estimated time; 0 while nothing is known."""
        if not self._passed:
            return 0.0
        bucket = _bucket(rows)
        if bucket not in self._passed:
            bucket = min(self._passed, key=lambda known: abs(math.log2(known / bucket)))
        return self._passed[bucket] * work

    @property
    def enough_rows(self) -> int:
        """Rows that a batch waits for while another one runs: smaller ones cost more together."""
        return self._smallest(CONCURRENT)

    @property
    def usual_rows(self) -> int:
        """Rows of a full batch that is no trial."""
        return self._bucket

    def drain(self, work: float) -> float:
        """Estimated time for work that is done in full batches."""
        return self._each_s * work

    def limit(self, waiting: int, *, considerate: bool = False) -> int:
        """Most rows of the next batch, while `waiting` wait; `considerate` of light tasks."""
        usual = min(self._short(), self._bucket) if considerate else self._bucket
        twice = min(2 * usual, self._most)
        # One row is what short batches are measured by: it must be known as it is now.
        less = 1 if considerate else max(usual // 2, 1)
        if waiting < twice:
            return usual
        if self._costs.believes(usual) and not self._costs.believes(twice):
            return twice
        self._tries = (self._tries + 1) % (2 * TRY_EVERY)
        return {0: twice, TRY_EVERY: less}.get(self._tries, usual)

    def _short(self) -> int:
        """The largest batch that takes at most `SHORT` times as long as one row, were all alike."""
        most_s = SHORT * self._costs.get(1, 0.0)
        found = max((size for size, s in self._costs.items() if size * s <= most_s), default=1)
        return max(found, self._smallest(LEAST))

    def free_rows(self, rows: int) -> int:
        """To how many rows a batch may grow and hardly take longer."""
        bucket = found = _bucket(rows)
        if bucket not in self._costs:
            return self._most
        most_s = FREE * bucket * self._costs[bucket]
        while found < self._most and 2 * found * self._costs.get(2 * found, 0.0) <= most_s:
            found *= 2
        return found


def _bucket(rows: int) -> int:
    return 1 << (rows - 1).bit_length()


def mean_but_worst(seconds: Collection[float]) -> float:
    """Without the largest, where there are several."""
    several = len(seconds) > 1
    return (sum(seconds) - several * max(seconds)) / (len(seconds) - several)
