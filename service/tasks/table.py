"""The table of tasks: takes in what the store says, preloads tasks, and swaps versions.

When another version of a loaded task becomes live, it is loaded and warmed, and then swapped in. If
it cannot be loaded, the old one goes on answering and the new one is tried again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from fnmatch import fnmatchcase

from model_store import Digest
from model_store.watching import View
from service.compute.paths import LoadedPath
from service.errors import Unavailable
from service.metrics.instruments import Metrics
from service.tasks.entry import Entry
from service.tasks.loader import Loader
from service.tasks.reasons import reason
from service.tasks.slot import Slot, Unread

logger = logging.getLogger(__name__)


class TaskTable:
    """Entries by name; one thread changes it, and the threads that load swap versions."""

    def __init__(
        self,
        loader: Loader,
        metrics: Metrics,
        forget: Callable[[str], None],
        preload: Sequence[str],
        pins: Sequence[str],
    ) -> None:
        """`forget` is told of removed tasks; `preload` and `pins` are as of the Catalog."""
        self._loader = loader
        self._metrics = metrics
        self._forget = forget
        self._preload, self._pins = frozenset(preload), tuple(pins)
        self._lock = threading.RLock()
        self.entries: Mapping[str, Entry] = {}  # by name; replaced, never changed
        self.names: list[str] = []
        self._view = View({}, {})  # what was last taken in
        self._overdue: set[str] = set()  # tasks whose live version is not the one that answers
        self.awaited: set[str] = set()  # preloaded tasks found at first, still loading
        self.followed = False  # whether the store has been read at all

    def slots(self) -> list[Slot]:
        """Of the live versions, and of those that are to take over."""
        with self._lock:
            both = [slot for one in self.entries.values() for slot in (one.slot, one.successor)]
        return [slot for slot in both if slot is not None]

    def load_again(self, recovered: bool) -> None:
        """After an outage, loads cold tasks that are preloaded; then tries one unreadable task."""
        if recovered:
            for task, entry in self.entries.items():
                if self._is_preloaded(task) and entry.slot.state == "cold":
                    with suppress(Unavailable):
                        entry.slot.begin()
        for slot in self._loader.unreadable():
            if slot.due:
                with suppress(Unavailable):
                    slot.begin()
                return

    def take_in(self, view: View) -> None:
        """Costs one comparison while nothing changes."""
        if view is self._view and not self._overdue:
            return
        live, known = view.live, self._view.live
        unknown = {task: error for task, error in view.unread.items() if task not in live}
        removed = [task for task in self.entries if task not in live and task not in unknown]
        differing = [task for task, found in live.items() if known.get(task) != found]
        entries = dict(self.entries)
        with self._lock:
            for task in removed:
                self._remove(task, entries.pop(task))
            for task in {*differing, *self._overdue}:
                entry = entries.get(task)
                if entry is None:
                    entries[task] = self._added(task, *live[task])
                else:
                    self._update(task, entry, *live[task])
            for task, error in unknown.items():
                if task not in entries:
                    self._metrics.register(task)
                entries[task] = Entry(Unread(self._loader, task, error))
            for task in {*self._view.unread, *view.unread} & entries.keys():
                error = view.unread.get(task)
                entries[task].unread = None if error is None else reason(error)
        if entries.keys() != self.entries.keys() or unknown:
            self.names = sorted(entries)
            self.entries = {task: entries[task] for task in self.names}
        self._view = view  # last: what an error interrupted is done again

    def _added(self, task: str, version: int, digest: Digest) -> Entry:
        slot = self._slot(task, version, digest)
        self._metrics.register(task)
        self._changed("added", task, version)
        if self._is_preloaded(task):
            self._preload_slot(slot)
        return Entry(slot)

    def _slot(self, task: str, version: int, digest: Digest) -> Slot:
        pinned = any(fnmatchcase(task, pattern) for pattern in self._pins)
        return Slot(self._loader, task, version, digest, pinned=pinned)

    def _preload_slot(self, slot: Slot) -> None:
        """Tasks added later do not make the gateway unready."""
        if not self.followed:
            self.awaited.add(slot.task)
        slot.begin().add_done_callback(lambda _: self.awaited.discard(slot.task))

    def _is_preloaded(self, task: str) -> bool:
        return task in self._preload or "*" in self._preload

    def _remove(self, task: str, entry: Entry) -> None:
        self._overdue.discard(task)
        self._forget(task)
        self._metrics.forget(task)
        self._changed("removed", task, entry.slot.version)

    def _update(self, task: str, entry: Entry, version: int, digest: Digest) -> None:
        if (entry.slot.version, entry.slot.digest) == (version, digest):
            entry.successor = None  # live again before another version took over
            self._overdue.discard(task)
            return
        successor = entry.successor
        if successor is None or (successor.version, successor.digest) != (version, digest):
            successor = self._slot(task, version, digest)
            self._changed("changed", task, version)
            if entry.slot.state != "ready":
                entry.slot, entry.successor = successor, None
                if self._is_preloaded(task):
                    self._preload_slot(successor)
                return
            entry.successor = successor
            self._overdue.add(task)
        if successor.due:
            successor.begin().add_done_callback(lambda job: self._swap(task, successor, job))

    def _swap(self, task: str, successor: Slot, job: Future[LoadedPath]) -> None:
        if job.cancelled() or job.exception() is not None:
            return
        with self._lock:
            entry = self.entries.get(task)
            if entry is not None and entry.successor is successor:
                entry.slot, entry.successor = successor, None
                self._overdue.discard(task)
                logger.info("event=task_swapped task=%s version=%d", task, successor.version)

    def _changed(self, kind: str, task: str, version: int) -> None:
        self._metrics.catalog_changes.labels(kind).inc()
        logger.info("event=task_%s task=%s version=%d", kind, task, version)
