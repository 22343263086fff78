"""Bounds the loads at once; loads that only wait do not count."""

from __future__ import annotations

import threading
import time
from types import TracebackType

SLOW_S = 0.25  # a load that takes longer waits for a disk, a network or a compiler


class LoadSlots:
    """A context for a few loads at once; loads that are in it longer than SLOW_S no longer count.

    Loads that compute must leave the processor to requests. Loads that wait take none of it, and
    must not delay others.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._changed = threading.Condition()
        self._begun: dict[int, float] = {}  # by thread

    def __enter__(self) -> None:
        with self._changed:
            while (wait_s := self._wait_s()) > 0:
                self._changed.wait(wait_s)
            self._begun[threading.get_ident()] = time.monotonic()

    def _wait_s(self) -> float:
        """0 if this load may begin, else the seconds until the next one counts as slow."""
        slow = time.monotonic() - SLOW_S
        quick = sorted(begun for begun in self._begun.values() if begun > slow)
        return 0.0 if len(quick) < self._at_once else quick[-self._at_once] - slow

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            del self._begun[threading.get_ident()]
            self._changed.notify()
