"""How many bytes components may take, and which loaded version goes when another needs its room.

What goes is the version not asked for the longest, unless it is pinned or a request is using it.
"""

from __future__ import annotations

import time
import weakref
from collections import ChainMap, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from model_store import Digest
from service.compute.paths import LoadedPath
from service.telemetry.metrics import Metrics

PINNED_SHARE = 0.75  # of what the largest pinned version leaves: others take turns in the rest


class OverBudget(Exception):
    """A version that can never fit; the message says which settings to change."""


class NoRoom(Exception):
    """All that is in memory is in use: later there may be room."""


class Holder(Protocol):
    """What keeps one version in memory."""

    @property
    def pinned(self) -> bool:
        """Whether the version stays whatever happens."""
        ...

    @property
    def path(self) -> LoadedPath | None:
        """The version, while it is in memory."""
        ...

    def let_go(self) -> bool:
        """Drops the version, unless somebody uses it; whether it did."""
        ...


class Recency:
    """The loaded versions by their last request, known only as long as somebody else holds them.

    Each step is one call of a dict, which no other thread can interrupt: requests do not wait for
    evictions.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._used: OrderedDict[weakref.ref[Holder], float] = OrderedDict()  # oldest first
        self._pinned: dict[weakref.ref[Holder], None] = {}

    def used(self, holder: Holder) -> None:
        """The version has just been loaded, or asked for."""
        key = weakref.ref(holder, self._forget)
        if holder.pinned:
            self._pinned[key] = None
            return
        self._used[key] = self._clock()
        with suppress(KeyError):  # an eviction took it in between, and puts it back: it is in use
            self._used.move_to_end(key)

    def _forget(self, key: weakref.ref[Holder]) -> None:
        self._used.pop(key, None)
        self._pinned.pop(key, None)

    def evict(self) -> bool:
        """Lets the least recently used version go; False if all are in use. For one thread."""
        for _ in range(len(self._used)):
            try:
                key, used_at = self._used.popitem(last=False)
            except KeyError:  # the last one was dropped meanwhile
                return False
            holder = key()
            if holder is None:
                continue
            if holder.let_go():
                self._metrics.evictions.inc()
                self._metrics.age_at_eviction.observe(self._clock() - used_at)
                return True
            if holder.path is not None:
                self.used(holder)  # by a request in flight
        return False

    def pinned(self, *, without: str) -> list[Mapping[Digest, int]]:
        """Bytes by component of each loaded pinned version but those of one task."""
        holders = [key() for key in list(self._pinned)]
        paths = [path for holder in holders if holder is not None and (path := holder.path)]
        return [
            {part.digest: part.size_bytes for stage in path.stages for part in stage.components}
            for path in paths
            if path.published.task != without
        ]


class Budget:
    """The bytes that components may take in memory."""

    def __init__(self, limit_bytes: float, recency: Recency) -> None:
        """`limit_bytes` may be infinite."""
        self.limit_bytes = limit_bytes
        self._recency = recency

    def require(self, task: str, sizes: Mapping[Digest, int], *, pinned: bool) -> None:
        """Raises OverBudget if these components can never be in memory together.

        Pinned tasks must leave room for others: beyond the largest of them, which also has what all
        tasks may share, they get PINNED_SHARE of the budget.
        """
        pins = self._recency.pinned(without=task)
        needed = sum(ChainMap(*map(dict, (sizes, *pins))).values())
        own = sum(sizes.values())
        limit = f"MUNET_MEMORY_BUDGET of {self.limit_bytes:.0f} bytes"
        if own > self.limit_bytes:
            raise OverBudget(
                f"loading {task!r}: expected at most the {limit}, found {own}; raise it"
            )
        if needed > self.limit_bytes:
            raise OverBudget(
                f"loading {task!r}: expected at most the {limit}, found {needed} with the tasks "
                "that MUNET_PIN keeps loaded; raise it, or name fewer tasks there"
            )
        largest = max(own, *(sum(pin.values()) for pin in pins), 0)
        allowed = largest + PINNED_SHARE * (self.limit_bytes - largest)
        if pinned and needed > allowed:
            raise OverBudget(
                f"pinning {task!r}: expected pinned tasks to need at most {allowed:.0f} bytes of "
                f"the {limit}, as others need room too, found {needed}; raise it, or name fewer "
                "tasks in MUNET_PIN"
            )

    def make_room(self, needed: int, taken: Callable[[], int]) -> bool:
        """Evicts until `needed` bytes are left beside what is `taken`; False if all is in use."""
        while taken() + needed > self.limit_bytes:
            if not self._recency.evict():
                return False
        return True
