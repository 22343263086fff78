"""How fast the engine is, learned from the batches it ran; and from it, how large they should be.

Seconds per unit of work are kept by bucket: the power of two that a batch's rows fit into. Means of
the last batches without the slowest: one pause changes nothing, a machine that has become slower or
faster is noticed after a handful.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection

KEPT = 24  # batches
ENOUGH = 4  # batches before a bucket's pace is believed
# The smallest batch that reaches this part of the best throughput is large enough: beyond, rows
# only wait longer.
WORTHWHILE = 0.97
# Where light tasks come beside a flood, a batch may take so many times the seconds of one row, if
# it then still reaches this part of the best throughput: forecasts allow for no less.
SHORT, LEAST = 2.0, 0.5
TRY_EVERY = 16  # batches of a backlog: one of them is twice the size, or smaller
FREE = 1.25  # times the seconds without them: what rows that join a light task's batch may cost


class Pace:
    """Estimates, for one thread at a time."""

    def __init__(self, most_rows: int) -> None:
        """`most_rows` is the largest batch, a power of two."""
        self._most = most_rows
        self._kept: dict[int, deque[float]] = {}
        self._means: dict[int, float] = {}  # bucket -> seconds per unit of work
        self._bucket = 1  # of full batches
        self._tries = 0

    def note(self, rows: int, work: float, seconds: float) -> None:
        """A batch of so many rows and so much work took so long."""
        bucket = _bucket(rows)
        kept = self._kept.setdefault(bucket, deque(maxlen=KEPT))
        kept.append(seconds / work)
        self._means[bucket] = mean_but_worst(kept)
        self._bucket = self._smallest(WORTHWHILE)

    def _smallest(self, part: float) -> int:
        """The smallest batch that reaches this part of the best throughput."""
        known = {size: mean for size, mean in self._means.items() if self._believed(size)}
        fastest = min(known.values(), default=0.0)
        return min((size for size, s in known.items() if s * part <= fastest), default=1)

    def seconds(self, rows: int, work: float) -> float:
        """A batch's estimated time; 0 while nothing is known."""
        if not self._means:
            return 0.0
        bucket = _bucket(rows)
        if bucket not in self._means:
            bucket = min(self._means, key=lambda known: abs(math.log2(known / bucket)))
        return self._means[bucket] * work

    @property
    def usual_rows(self) -> int:
        """Rows of a full batch that is no trial."""
        return self._bucket

    def drain(self, work: float) -> float:
        """Estimated time for work that is done in full batches."""
        return self.seconds(self._bucket, work)

    def limit(self, waiting: int, *, considerate: bool = False) -> int:
        """Rows of the next batch at most, when so many wait; `considerate` of light tasks."""
        usual = min(self._short(), self._bucket) if considerate else self._bucket
        twice = min(2 * usual, self._most)
        # One row is what short batches are measured by: it must be known as it is now.
        less = 1 if considerate else max(usual // 2, 1)
        if waiting < twice:
            return usual
        if self._believed(usual) and not self._believed(twice):
            return twice
        self._tries = (self._tries + 1) % (2 * TRY_EVERY)
        return {0: twice, TRY_EVERY: less}.get(self._tries, usual)

    def _short(self) -> int:
        """The largest batch that takes at most `SHORT` times as long as one row, were all alike."""
        most_s = SHORT * self._means.get(1, 0.0)
        found = max((size for size, s in self._means.items() if size * s <= most_s), default=1)
        return max(found, self._smallest(LEAST))

    def free_rows(self, rows: int) -> int:
        """To how many rows a batch may grow and hardly take longer."""
        bucket = found = _bucket(rows)
        if bucket not in self._means:
            return self._most
        most_s = FREE * bucket * self._means[bucket]
        while found < self._most and 2 * found * self._means.get(2 * found, 0.0) <= most_s:
            found *= 2
        return found

    def _believed(self, bucket: int) -> bool:
        return len(self._kept.get(bucket, ())) >= ENOUGH


def _bucket(rows: int) -> int:
    return 1 << (rows - 1).bit_length()


def mean_but_worst(seconds: Collection[float]) -> float:
    """Without the largest, where there are several."""
    several = len(seconds) > 1
    return (sum(seconds) - several * max(seconds)) / (len(seconds) - several)
