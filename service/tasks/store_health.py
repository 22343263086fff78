"""What keeps the whole store from being read: one state for all tasks.

The catalog looks at the store all the time. While looks fail or hang, tasks that are not in memory
are refused at once, with that as the reason. One load at a time, at most one a second, is tried all
the same. If it fails, its task is not marked as failed. If it succeeds, other loads are tried too.
When a look succeeds, the state ends for all tasks at once.

A store that hangs raises no error for those who wait for it. So when a look is known to hang, all
who wait are refused at once, and their work goes on without them. If a look takes long while loads
can read, the store is only slow, and nobody is refused.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from model_store import (
    BlobNotFound,
    CorruptRef,
    DamagedStore,
    StorageError,
    StoreError,
    StoreNotFound,
    UnknownFormat,
    UnknownTask,
    UnknownVersion,
)

T = TypeVar("T")
logger = logging.getLogger(__name__)
KINDS = ("unreachable", "missing", "stalled", "unusable")
STALL_S = 5.0  # a look that takes longer is not waited for
PATIENCE_S = 0.5  # while it hangs: what needs no store has its answer by then
TELL_S = 30.0  # between two lines of the log on the same trouble
TRY_S = 1.0  # between two loads that are tried though loads fail
# Errors of a load that may mean that the whole store is away: its folder may be gone, and with it
# every document and blob.
OF_AN_OUTAGE = (
    *(OSError, StorageError, StoreNotFound, BlobNotFound, CorruptRef),
    *(UnknownTask, UnknownVersion),
)


class StoreAway(StorageError):
    """The store cannot be read now, which is no fault of this task."""


class Stalled(StoreError):
    """The store does not answer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why looks at the store fail."""

    kind: str  # of KINDS
    error: Exception


class StoreHealth:
    """What is known of the store as a whole; for any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._good_at = clock()
        self._told_at = -TELL_S
        self._loads_work = False  # in spite of the fault
        self._worked_at = -math.inf  # when a load could last read
        self._trying = False
        self._tried_at = -TRY_S
        self._fault: Fault | None = None
        self._waiting: dict[Future[Any], float] = {}  # since when

    @property
    def fault(self) -> Fault | None:
        """What is wrong with the store as a whole, now."""
        return self._fault

    @property
    def hanging(self) -> bool:
        """Whether looks have no answer at all."""
        fault = self._fault
        return fault is not None and fault.kind == "stalled"

    @property
    def age_s(self) -> float:
        """Since the last good look at the store began to be taken in; since the start if none."""
        return self._clock() - self._good_at

    def good(self) -> bool:
        """A look has succeeded; returns whether there was a fault before."""
        with self._lock:
            before, self._fault, self._loads_work = self._fault, None, False
            seconds, self._good_at = self.age_s, self._clock()
            self._told_at = -TELL_S
        if before is not None:
            logger.warning("event=store_answers after=%s seconds=%.1f", before.kind, seconds)
        return before is not None

    def bad(self, error: Exception) -> None:
        """A look has failed, or hangs (Stalled)."""
        with self._lock:
            kind = kind_of(error)
            changed = self._fault is None or self._fault.kind != kind
            self._fault = Fault(kind, error)
            if not changed and self._clock() - self._told_at < TELL_S:
                return
            self._told_at = self._clock()
        logger.warning(
            "event=store_unreadable kind=%s last_good_s=%.1f error=%r", kind, self.age_s, error
        )

    def hangs(self, seconds: float, stall_s: float = STALL_S) -> None:
        """A look has had no answer for `seconds`, more than `stall_s`, and still has none."""
        if self._clock() - self._worked_at < stall_s:
            return
        if self._fault is None or self.hanging:  # else what it said before holds
            self.bad(Stalled(f"no answer for {seconds:.0f} s"))
        with self._lock:
            since = self._clock() - PATIENCE_S
            overdue = [waiting for waiting, began in self._waiting.items() if began <= since]
        for waiting in overdue:
            with suppress(InvalidStateError):  # it has just got its answer
                waiting.set_exception(StoreAway(f"no answer for {seconds:.0f} s"))

    def unless_it_hangs(self, work: Future[T]) -> Future[T]:
        """The result of `work`; raises StoreAway as soon as the store is known to hang.

        Cancelling the future does not cancel the work.
        """
        waiting: Future[T] = Future()
        with self._lock:
            self._waiting[waiting] = self._clock()
        waiting.add_done_callback(self._waits_no_more)
        work.add_done_callback(lambda done: _take_over(done, waiting))
        return waiting

    def _waits_no_more(self, waiting: Future[Any]) -> None:
        with self._lock:
            del self._waiting[waiting]

    def load_ended(self, *, works: bool) -> None:
        """Whether a load could read what it needed."""
        self._trying, self._loads_work = False, works and self._fault is not None
        if works:
            self._worked_at = self._clock()

    def require(self, *, may_try: bool = False) -> None:
        """Raises StoreAway while looks fail; with `may_try`, lets one load pass once in a while."""
        fault = self._fault
        if fault is None or self._loads_work:
            return
        with self._lock:
            due = not self._trying and self._clock() - self._tried_at >= TRY_S
            if may_try and due and fault.kind != "stalled":
                self._trying, self._tried_at = True, self._clock()
                return
        raise StoreAway(f"the store is {fault.kind}: {fault.error}")


def _take_over(work: Future[T], waiting: Future[T]) -> None:
    with suppress(InvalidStateError):  # nobody waits any more
        if work.cancelled():
            waiting.cancel()
        elif (error := work.exception()) is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(work.result())


def kind_of(error: Exception) -> str:
    """One of KINDS."""
    if isinstance(error, Stalled):
        return "stalled"
    if isinstance(error, StoreNotFound):
        return "missing"
    return "unusable" if isinstance(error, DamagedStore | UnknownFormat) else "unreachable"
