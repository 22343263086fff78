"""Looks at the store at intervals, and when a look is asked for.

Looks have a thread of their own. A look may hang for hours on a network file system: it delays
nobody, ends nothing, and `StoreHealth` is told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue

from service.errors import Unavailable
from service.tasks.reasons import reason
from service.tasks.store_health import STALL_S, Stalled, StoreHealth

LOOK_S = 0.05  # how often a look that takes long is checked
KNOWN_S = 0.5  # how long who asks waits for a look, if the store was away at the last one
LAST_S = 1.0  # that the end waits for a look


class Follower:
    """Follows the store from `start` to `stop`."""

    def __init__(
        self,
        look: Callable[[], Exception | None],
        health: StoreHealth,
        *,
        poll_s: float,
        stall_s: float = STALL_S,
    ) -> None:
        """`look` takes in what has changed, and returns why that could not be read."""
        self._look = look
        self._health = health
        self._poll_s = poll_s
        self._stall_s = stall_s
        self._asked: list[Future[None]] = []
        self._asking = threading.Lock()  # the event loop takes it
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._looks: SimpleQueue[Future[Exception | None] | None] = SimpleQueue()  # None is the end
        self._thread = threading.Thread(target=self._follow, name="catalog-watch", daemon=True)

    def start(self) -> None:
        """Begins; waits for the first look, unless it hangs."""
        first = self.refresh()
        self._thread.start()
        first.exception()

    def stop(self) -> None:
        """Ends the thread, but for a look that hangs."""
        self._stopped.set()
        self._wake.set()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def refresh(self) -> Future[None]:
        """Asks for a look now; the future is done when a look that began later has ended.

        It raises Unavailable if that look fails or hangs: then nobody can tell what there is.
        """
        done: Future[None] = Future()
        with self._asking:
            self._asked.append(done)
        self._wake.set()
        return done

    def _follow(self) -> None:
        threading.Thread(target=self._look_on, name="catalog", daemon=True).start()
        not_before = 0.0
        while not self._stopped.is_set():
            if self._wake.wait(self._poll_s):
                # Requests for unknown names each ask for a look: leave most of the time for others.
                self._stopped.wait(max(0.0, not_before - time.monotonic()))
            self._wake.clear()
            asked = self._taken()
            started = time.monotonic()
            _answer(asked, self._looked(asked))
            ended = time.monotonic()
            not_before = ended + min(self._poll_s, max(0.01, 4 * (ended - started)))
        self._looks.put(None)
        _answer(self._taken(), Stalled("the gateway is stopping"))

    def _look_on(self) -> None:
        while (looking := self._looks.get()) is not None:
            looking.set_result(self._look())

    def _taken(self) -> list[Future[None]]:
        with self._asking:
            asked, self._asked = self._asked, []
            return asked

    def _looked(self, asked: list[Future[None]]) -> Exception | None:
        """One look. If it hangs, all who asked for it, or ask meanwhile, get an error."""
        looking: Future[Exception | None] = Future()
        started = time.monotonic()
        self._looks.put(looking)
        while not self._stopped.is_set():
            with suppress(TimeoutError):
                return looking.result(LOOK_S)
            seconds = time.monotonic() - started
            if seconds > self._stall_s:
                self._health.hangs(seconds, self._stall_s)
            if (fault := self._health.fault) is not None and seconds > KNOWN_S:
                _answer([*asked, *self._taken()], fault.error)
                asked.clear()
        with suppress(TimeoutError):
            return looking.result(LAST_S)
        return Stalled("the gateway is stopping")


def _answer(asked: list[Future[None]], failure: Exception | None) -> None:
    for done in asked:
        if not done.set_running_or_notify_cancel():
            continue
        if failure is None:
            done.set_result(None)
        else:
            detail = f"the store cannot be read now: {reason(failure)}"
            done.set_exception(Unavailable(detail, retry_after_s=1))
