"""How many tasks use each component, kept up to date as tasks come, change and go.

Each task is read from the store once. A thread does that at a bounded rate; an answer reads the
tasks that it shows and a few more. So a list reads little for any number of tasks. It compares all
tasks with what is known of them, but in memory. Until all tasks have been read, it counts only the
sharing that is known by then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from model_store import Digest, StoreError
from service.access import Grants
from service.tasks.entry import Entry
from service.tasks.summaries import Summary

logger = logging.getLogger(__name__)
LOOK_S = 2.0
REST = 4  # times as long as a task takes to read, so that requests keep the interpreter
FEW = 50  # tasks that an answer reads beyond those it shows
AGAIN_S = 30.0  # until one that could not be read is tried again
LAST_LOOK_S = 1.0  # that the end waits for
_Facts = tuple[Summary, bool]  # and whether its task is private


class Sharing:
    """What tasks share; any thread."""

    def __init__(self, entries: Callable[[], Mapping[str, Entry]]) -> None:
        """`entries` are the tasks that there are now."""
        self._entries = entries
        self._lock = threading.Lock()
        self._noted: dict[str, _Facts] = {}
        self._failed: dict[str, float] = {}  # task -> when to try again
        self._public: Counter[Digest] = Counter()  # tasks that use a component
        self._private: dict[Digest, set[str]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="sharing", daemon=True)

    def start(self) -> None:
        """Starts to read the tasks that nobody has asked for yet."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, unless it hangs in the store."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(LAST_LOOK_S)

    def users(self, digest: Digest, grants: Grants) -> int:
        """How many tasks that a request may know of use a component."""
        private = self._private.get(digest, ())
        return self._public[digest] + sum(grants.sees(task, private=True) for task in list(private))

    def learn(self, shown: Mapping[str, Entry]) -> None:
        """Reads what is not known of these tasks, and of a few others."""
        for task, entry in shown.items():
            self._read(task, entry)
        self._learn_others(FEW)

    def _learn_others(self, most: int | None, rest: int = 0) -> None:
        entries = self._entries()
        for task in (self._noted.keys() | self._failed.keys()) - entries.keys():
            self._note(task, None)
        now = time.monotonic()
        new = (task for task, entry in entries.items() if not self._knows(task, entry))
        due = [task for task in new if now >= self._failed.get(task, 0.0)]
        for task in due[:most]:
            started = time.monotonic()
            self._read(task, entries[task])
            if rest and self._stopped.wait(rest * (time.monotonic() - started)):
                return

    def _knows(self, task: str, entry: Entry) -> bool:
        noted = self._noted.get(task)
        return (
            noted is not None
            and noted[0].digest == entry.slot.digest
            and noted[1] == _is_private(entry, noted[0])
        )

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self._learn_others(None, REST)
            except Exception as error:  # the next look may see more
                logger.error("event=sharing_unknown error=%r", error)
            self._stopped.wait(LOOK_S)

    def _read(self, task: str, entry: Entry) -> None:
        if self._knows(task, entry):
            return
        try:
            summary = entry.slot.summary()
            self._note(task, (summary, _is_private(entry, summary)))
        except (StoreError, OSError):  # the task's own failure says why
            self._failed[task] = time.monotonic() + AGAIN_S

    def _note(self, task: str, noted: _Facts | None) -> None:
        with self._lock:
            last = self._noted.pop(task, None)
            self._failed.pop(task, None)
            if last is not None:
                self._count(task, *last, -1)
            if noted is not None:
                self._noted[task] = noted
                self._count(task, *noted, 1)

    def _count(self, task: str, summary: Summary, private: bool, by: int) -> None:
        for digest in summary.components:
            if not private:
                self._public[digest] += by
                if not self._public[digest]:
                    del self._public[digest]
            elif by > 0:
                self._private.setdefault(digest, set()).add(task)
            else:
                self._private[digest].discard(task)
                if not self._private[digest]:
                    del self._private[digest]


def _is_private(entry: Entry, summary: Summary) -> bool:
    """A task is also private as soon as the next version is."""
    if entry.successor is None:
        return summary.private
    return entry.read_private() is not False
