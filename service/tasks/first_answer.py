"""Ready means that this gateway has loaded something and answered once.

At the start an image goes through a task of the store, with the same reads, cache writes, decoding
and programs that a request needs. The task is one of those that are loaded at the start, if there
are any, else any task. If the store is empty, it is a small built-in network. While that fails for
every task, the gateway is not ready and tries again. Once it has worked, the gateway stays ready: a
store that fails later fails for all replicas, and loaded tasks go on answering.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from service.tasks.entry import Entry
from service.tasks.reasons import reason
from service.tasks.slot import Slot

logger = logging.getLogger(__name__)
LOOK_S = 0.02  # how often it is looked whether the store has been read
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 10.0  # after all tasks have failed


class Tasks(Protocol):
    """The tasks that can be tried."""

    @property
    def ready(self) -> bool:
        """Whether the store has been read and each preloaded task was loaded or has failed."""
        ...

    def entries(self) -> Mapping[str, Entry]:
        """The tasks by name."""
        ...


class FirstAnswer:
    """Waits for the first answer in a thread of its own."""

    def __init__(
        self,
        tasks: Tasks,
        preload: Collection[str],
        answer: Callable[[Slot], None],
        built_in: Callable[[], None],
    ) -> None:
        """`preload` names the tasks that are loaded at start, "*" all. `answer` loads a version and
        sends an image through it, `built_in` through what needs no store; they block, and raise
        where that does not work.
        """
        self._tasks = tasks
        self._preload = preload
        self._answer = answer
        self._built_in = built_in
        self._told = ""  # the failure that was logged last
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="first-answer", daemon=True)
        self.given = False

    def start(self) -> None:
        """Begins to try."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after what is being tried."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopped.wait(LOOK_S):
            if not self._tasks.ready:
                continue
            if self._given():
                self.given = True
                return
            self._stopped.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _given(self) -> bool:
        slots = self._slots()
        for slot in slots:
            if self._works(slot.task, slot.version, lambda slot=slot: self._answer(slot)):
                return True
            if self._stopped.is_set():
                return False
        return not slots and self._works("", 0, self._built_in)

    def _slots(self) -> Sequence[Slot]:
        """The versions to try, those in memory first."""
        entries = self._tasks.entries()
        preloaded = [task for task in entries if task in self._preload]
        slots = [entries[task].slot for task in preloaded or entries]
        return sorted(slots, key=lambda slot: slot.path is None)

    def _works(self, task: str, version: int, answer: Callable[[], None]) -> bool:
        started = time.monotonic()
        try:
            answer()
        except Exception as error:  # of any kind: a request would meet it too
            self._tell(reason(error), task)
            return False
        seconds = time.monotonic() - started
        logger.info("event=first_answer task=%s version=%d seconds=%.3f", task, version, seconds)
        return True

    def _tell(self, found: str, task: str) -> None:
        if found != self._told:  # else a store that is away fills the log
            self._told = found
            logger.warning("event=not_ready task=%s reason=%r", task, found)
