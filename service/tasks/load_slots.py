"""Few loads at once, but for those that wait."""

from __future__ import annotations

import threading
import time
from types import TracebackType

SLOW_S = 0.25  # a load that takes longer waits for a disk, a network or a compiler


class LoadSlots:
    """A context for few loads at once, but for those in it longer than SLOW_S: they count no more.

    What computes has to be kept from crowding out the requests; what waits disturbs nobody, and
    must hold up nobody.
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
        """0 if there is a turn, else the seconds until the next one is slow."""
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
