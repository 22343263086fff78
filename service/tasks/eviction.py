"""How many bytes components may take, and which loaded version is evicted for another one.

The version that was not asked for the longest is evicted, unless it is pinned or in use.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from model_store import Digest
from service.compute.paths import LoadedPath
from service.errors import Told
from service.metrics.instruments import Metrics

Key = tuple[str, Digest]  # of a component: the kind decides how it is held
SPARE = 2**30  # bytes that are kept for components, at most
PINNED_SHARE = 0.75  # of what the largest pinned version leaves: others take turns in the rest


class OverBudget(Told):
    """A version that can never fit; the message says which settings to change."""


class NoRoom(Told):
    """Everything in memory is in use: there may be room later."""


class Holder(Protocol):
    """An object that keeps one version in memory."""

    @property
    def pinned(self) -> bool:
        """Whether the version is never evicted."""
        ...

    @property
    def path(self) -> LoadedPath | None:
        """The version, while it is in memory."""
        ...

    def let_go(self) -> bool:
        """Drops the version, unless somebody uses it; whether it did."""
        ...


class Recency:
    """The loaded versions by their last request; it holds only weak references to them.

    Each step is one call of a dict, which no other thread can interrupt: requests do not wait for
    evictions.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._used: OrderedDict[weakref.ref[Holder], float] = OrderedDict()  # oldest first

    def used(self, holder: Holder) -> None:
        """The version has just been loaded, or asked for."""
        if holder.pinned:
            return
        key = weakref.ref(holder, self._forget)
        self._used[key] = self._clock()
        try:  # noqa: SIM105  # a context would cost three calls at each request
            self._used.move_to_end(key)
        except KeyError:  # an eviction took it in between, and puts it back: it is in use
            pass

    def _forget(self, key: weakref.ref[Holder]) -> None:
        self._used.pop(key, None)

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


@dataclass(frozen=True, slots=True, eq=False)
class Pin:
    """The components of one pinned version, from before it is read until it is freed."""

    task: str
    sizes: Mapping[Key, int]  # bytes


class Budget:
    """The bytes that components may take in memory; safe to use from several threads."""

    def __init__(
        self,
        limit_bytes: float,
        recency: Recency,
        fits: Callable[[int], bool] = lambda _: True,
    ) -> None:
        """`limit_bytes` may be infinite; `fits` tells whether the machine has that many bytes left.
        It measures that, and does not go by what is counted here.
        """
        self.limit_bytes = limit_bytes
        self._recency = recency
        self._fits = fits
        self._lock = threading.Lock()  # not for `unpin`, which any thread may call at any time
        self._pins: dict[Pin, None] = {}

    def require(self, task: str, sizes: Mapping[Key, int]) -> None:
        """Raises OverBudget if these components can never be in memory together with the pins.

        The task's own pin counts too: it stays until its successor has been loaded.
        """
        limit = f"MUNET_MEMORY_BUDGET of {self.limit_bytes:.0f} bytes"
        own = sum(sizes.values())
        if own > self.limit_bytes:
            raise OverBudget(
                f"loading {task!r}: expected at most the {limit}, found {own}; raise it"
            )
        needed = sum({**self.pinned(), **sizes}.values())
        if needed > self.limit_bytes:
            raise OverBudget(
                f"loading {task!r}: expected at most the {limit}, found {needed} with the versions "
                "that MUNET_PIN keeps loaded, of this task too until a new one takes over; raise "
                "it, or name fewer tasks there"
            )

    def pin(self, task: str, sizes: Mapping[Key, int]) -> Pin:
        """`require` for a pinned version, which counts from now on until `unpin`.

        Pinned tasks must leave room for others: besides the largest one, which includes what all
        tasks may share, they get PINNED_SHARE of the rest of the budget.
        """
        with self._lock:
            self.require(task, sizes)
            others = (pin.sizes for pin in list(self._pins) if pin.task != task)
            pins = [sizes, *others]
            needed = sum(_together(pins).values())
            largest = max(sum(pin.values()) for pin in pins)
            allowed = largest + PINNED_SHARE * (self.limit_bytes - largest)
            if needed > allowed:
                raise OverBudget(
                    f"pinning {task!r}: expected pinned tasks to need at most {allowed:.0f} bytes "
                    f"of the MUNET_MEMORY_BUDGET of {self.limit_bytes:.0f} bytes, as others need "
                    f"room too, found {needed}; raise it, or name fewer tasks in MUNET_PIN"
                )
            pin = Pin(task, sizes)
            self._pins[pin] = None
            return pin

    def unpin(self, pin: Pin) -> None:
        """The version failed to load, or has been freed."""
        self._pins.pop(pin, None)

    def pinned(self) -> Mapping[Key, int]:
        """Bytes by component of all pinned versions, those being read included."""
        return _together([pin.sizes for pin in list(self._pins)])

    def make_room(
        self, needed: int, taken: Callable[[], int], staying: Callable[[], int], extra: int = 0
    ) -> bool:
        """Evicts until there is room for `needed` bytes more than `taken`; False if it cannot.

        The machine must have `needed` and `extra` bytes left. Evicts nothing if that could not
        free enough of the budget: `staying` are the bytes that no eviction frees.
        """
        if taken() + needed > self.limit_bytes and staying() + needed > self.limit_bytes:
            return False
        while taken() + needed > self.limit_bytes or not self._fits(needed + extra):
            if not self._recency.evict():
                return False
        return True

    def has_spare(self, size: int, taken: int) -> bool:
        """Whether the machine has `size` bytes left that components and loads will not need.

        Components may fill the rest of the budget; loads hold for a moment twice what they have
        read, for which a quarter of the budget is kept. Both together count as SPARE at most.
        """
        wanted = max(0, self.limit_bytes - taken) + self.limit_bytes / 4
        return self._fits(size + int(min(wanted, SPARE)))


def _together(several: Sequence[Mapping[Key, int]]) -> dict[Key, int]:
    return {key: size for sizes in several for key, size in sizes.items()}
