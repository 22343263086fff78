"""Loads versions in threads of their own, a few at once."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from model_store import ModelStore, Published, StorageError
from service.compute.paths import LoadedPath
from service.errors import Unavailable
from service.metrics.instruments import Metrics
from service.tasks.eviction import Recency
from service.tasks.load_slots import LoadSlots
from service.tasks.store_health import KINDS, OF_AN_OUTAGE, StoreHealth

LOADS = 32  # begun and not ended
RETRIES = 4  # of those that have failed before: they take no thread from other tasks


class Prepare(Protocol):
    """Reads a version's components, warms its programs and tries it out; blocks."""

    def __call__(self, published: Published, *, pinned: bool) -> LoadedPath: ...


class Version(Protocol):
    """A version to load: a slot."""

    @property
    def due(self) -> bool:
        """Whether to begin a load that no request asks for."""
        ...

    def begin(self) -> Future[LoadedPath]:
        """The load, started if need be."""
        ...

    def forgive(self) -> None:
        """May be loaded again at once."""
        ...


class Loader:
    """Loads versions in threads of their own, never on the event loop or the engine's thread."""

    def __init__(
        self,
        store: ModelStore,
        prepare: Prepare,
        metrics: Metrics,
        recency: Recency,
        *,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`threads` loads run at once; slow ones do not count (see LoadSlots)."""
        self.store = store
        self.prepare = prepare
        self.metrics = metrics
        self.recency = recency
        self.clock = clock
        self.health = StoreHealth(clock)
        self.look: Callable[[], Future[None]] = _looked  # the catalog's, at its store
        self._noting = threading.Lock()
        self._unreadable: weakref.WeakSet[Version] = weakref.WeakSet()
        self.load_slots = LoadSlots(threads)
        self._first = ThreadPoolExecutor(LOADS, thread_name_prefix="load")
        self._again = ThreadPoolExecutor(RETRIES, thread_name_prefix="load-again")

    def submit(self, load: Callable[[], LoadedPath], *, failed_before: bool) -> Future[LoadedPath]:
        """Runs a load when its turn has come."""

        def work() -> LoadedPath:
            with self.load_slots:
                return load()

        return (self._again if failed_before else self._first).submit(work)

    def of_the_store(self, error: Exception) -> bool:
        """Whether a load failed because the store as a whole is away; blocks for a look at it."""
        if not isinstance(error, OF_AN_OUTAGE):
            return False
        if self.health.fault is None:
            with suppress(Unavailable):
                self.look().result()
        return self.health.fault is not None

    def read(self, slot: Version) -> None:
        """A version has been read: others that could not be read may be tried again."""
        self.health.load_ended(works=True)
        with self._noting:
            others = list(self._unreadable) if slot in self._unreadable else []
            self._unreadable.difference_update(others)
        for other in others:
            other.forgive()

    def unread(self, slot: Version, error: Exception) -> bool:
        """A version has failed to load; returns whether its files cannot be read now."""
        with self._noting:
            if isinstance(error, OSError | StorageError):
                self._unreadable.add(slot)
                return True
            self._unreadable.discard(slot)
            return False

    def unreadable(self) -> list[Version]:
        """The versions whose files cannot be read, while the store itself can be."""
        with self._noting:
            return list(self._unreadable)

    def faults(self) -> Mapping[str, float]:
        """What is wrong with the store, by kind: 1 or 0, and how many versions are unreadable."""
        fault = self.health.fault
        kinds = {kind: float(fault is not None and fault.kind == kind) for kind in KINDS}
        return {**kinds, "unreadable": float(len(self.unreadable()))}

    def close(self) -> None:
        """Drops the loads that have not begun."""
        self._first.shutdown(cancel_futures=True)
        self._again.shutdown(cancel_futures=True)


def _looked() -> Future[None]:
    """A look at a store that nobody follows."""
    done: Future[None] = Future()
    done.set_result(None)
    return done
