"""Which version of each task is served, at a cost that does not grow with the number of tasks.

A writer appends the task to `refs/changes`, a short log, before it changes what is served. A
watcher reads the log, one small file, and then only the refs of the tasks in its new part. As the
change comes after its announcement, it looks at an announced task again for a while; and at
everything once in a while, even if the log names nothing.
"""

import logging
import secrets
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from model_store.blobs import Digest
from model_store.canonical_json import seal, unseal
from model_store.errors import CorruptRef, InvalidName
from model_store.files.protocol import Read, Storage
from model_store.names import require_name, task_key
from model_store.refs import UNREADABLE, Refs
from model_store.rollouts import Offer

logger = logging.getLogger(__name__)

KEY = "refs/changes"
MAX_TASKS = 500  # in the log; a watcher that missed more looks at everything
ANNOUNCED_S = 30.0  # how long a writer may take from the announcement to the change
RESCAN_S = 120.0

LONGEST_PAUSE_S = 10.0  # between two tries to read the refs of one task

Served = tuple[int, Digest]
Offers = tuple[Offer, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class View:
    """What is served, as far as it could be read."""

    live: Mapping[str, Served]  # of a task whose refs cannot be read, what they last said
    unread: Mapping[str, Exception]  # task -> why its refs cannot be read now
    offers: Mapping[str, Offers] = field(
        default_factory=dict[str, Offers]
    )  # roll-outs under way, of few tasks
    min_probabilities: Mapping[str, float] = field(
        default_factory=dict[str, float]
    )  # of the tasks that have one


@dataclass(slots=True)
class _Found:
    """What was read of some tasks."""

    served: dict[str, Served | None] = field(default_factory=dict[str, Served | None])
    offers: dict[str, Offers] = field(default_factory=dict[str, Offers])
    min_probabilities: dict[str, float] = field(default_factory=dict[str, float])
    errors: dict[str, Exception] = field(default_factory=dict[str, Exception])

    def over(self, before: Mapping[str, T], now: Mapping[str, T]) -> Mapping[str, T]:
        """What few tasks have, with what was read of it now; the same object if nothing changes."""
        read = self.served.keys() - self.errors.keys()
        kept = {task: one for task, one in before.items() if task not in read}
        found = {**kept, **now}
        return before if found == before else MappingProxyType(found)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A task whose refs cannot be read; times are monotonic seconds."""

    error: Exception
    since: float
    tried: float

    def due(self, now: float) -> bool:
        """Whether to try again: the longer it has lasted, the less often."""
        return now - self.tried >= min(LONGEST_PAUSE_S, (self.tried - self.since) / 2)


@dataclass(frozen=True, slots=True)
class _Log:
    """The log: how many changes there were since it was begun, and the tasks of the last ones."""

    name: str  # another one when the log was begun again
    count: int
    tasks: tuple[str, ...]

    def since(self, known: "_Log | None") -> tuple[str, ...] | None:
        """The tasks announced after `known`; None if that cannot be told."""
        if known is None or known.name != self.name or not self.name:
            return None
        new = self.count - known.count
        return self.tasks[len(self.tasks) - new :] if 0 <= new <= len(self.tasks) else None


def announce(storage: Storage, *tasks: str) -> None:
    """Tell watchers that what is served of tasks is about to change."""
    while True:
        current = storage.read(KEY)
        log = _parse(current)
        name = log.name or secrets.token_hex(8)
        last = [*log.tasks, *tasks][-MAX_TASKS:]
        data = seal(KEY, {"count": log.count + len(tasks), "log": name, "tasks": last})
        if storage.replace(KEY, data, current.version if current else None):
            return


def begin(storage: Storage) -> None:
    """Make the log of a new store."""
    log = {"count": 0, "log": secrets.token_hex(8), "tasks": []}
    storage.replace(KEY, seal(KEY, log), None)


class Watcher:
    """What one process knows of a store's tasks. May be used by several threads.

    An error of one task's refs, damage or a file that cannot be read, is that task's alone: it
    keeps what was last read of it, and is tried again. A listing or a log that fails together with
    the listing is an outage: it is raised, and changes nothing.
    """

    def __init__(self, storage: Storage, refs: Refs) -> None:
        self._storage = storage
        self._refs = refs
        self._lock = threading.Lock()
        self._log: _Log | None = None
        self._data: bytes | None = None  # that it was parsed from
        self._looked = 0.0  # at everything; monotonic seconds, as all times here
        self._polled = 0.0
        self._announced: dict[str, float] = {}  # task -> when it was first seen in the log
        self._troubles: dict[str, _Trouble] = {}
        # Both are replaced, never changed: `snapshot` hands them out.
        self._served: dict[str, Served] = {}
        self._view = View(MappingProxyType(self._served), {})

    def snapshot(self) -> View:
        """What is served now; the same object as long as nothing changes.

        Raises StoreNotFound if the store is there no longer, and OSError or StorageError where it
        cannot be listed.
        """
        with self._lock:
            now = time.monotonic()
            read = self._storage.read_many([KEY])[KEY]
            if read is None:
                self._refs.require_store()  # a disk that went away has not removed every task
            data = getattr(read, "data", None)
            unchanged = data is not None and data == self._data
            log = self._log if self._log is not None and unchanged else _parse(read)
            new = log.since(self._log)
            # An announced task is let go once it was looked at long enough after that.
            announced = {
                task: since
                for task, since in self._announced.items()
                if self._polled - since < ANNOUNCED_S
            } | dict.fromkeys(log.tasks if new is None else new, now)
            if new is None or now - self._looked >= RESCAN_S:
                tasks = {*self._refs.tasks(), *self._view.live}
                self._troubles = {t: self._troubles[t] for t in tasks if t in self._troubles}
                self._look(tasks, now)
                self._looked = now
            else:
                due = (task for task, trouble in self._troubles.items() if trouble.due(now))
                self._look({*announced, *due}, now)
            # Last, so that what an error has interrupted is done again.
            self._announced, self._log, self._data, self._polled = announced, log, data, now
            return self._view

    def _look(self, tasks: Collection[str], now: float) -> None:
        """Learn what is served, of which only these tasks may have changed."""
        read = self._read(tasks)
        before = self._served
        found = {task: served for task, served in read.served.items() if served}
        live = self._view.live
        if any(found.get(task) != before.get(task) for task in tasks):
            # A plain dict: to copy its proxy takes ten times as long, to filter it five times.
            changed = dict(before)
            for task in tasks:
                changed.pop(task, None)
            changed.update(found)
            self._served, live = changed, MappingProxyType(changed)
        self._note(tasks, read.errors, now)
        unread = {task: trouble.error for task, trouble in self._troubles.items()}
        view = self._view
        offers = read.over(view.offers, read.offers)
        least = read.over(view.min_probabilities, read.min_probabilities)
        same = offers is view.offers and least is view.min_probabilities
        if live is not view.live or unread != view.unread or not same:
            self._view = View(live, MappingProxyType(unread), offers, least)

    def _note(self, tasks: Iterable[str], errors: Mapping[str, Exception], now: float) -> None:
        """Remember which of the tasks looked at could not be read; each error is logged once."""
        for task in tasks:
            last, error = self._troubles.pop(task, None), errors.get(task)
            if error is None:
                continue
            if last is not None and _same(last.error, error):
                self._troubles[task] = replace(last, tried=now)
                continue
            logger.warning("event=ref_unreadable task=%s error=%r", task, str(error))
            self._troubles[task] = _Trouble(error, now if last is None else last.since, now)

    def _read(self, tasks: Iterable[str]) -> _Found:
        """What is served of these tasks, what was where that cannot be read; and why others cannot
        be read.
        """
        keys = {task: task_key(task) for task in tasks}
        read = self._refs.read_many(keys.values())
        last = self._view.live
        found = _Found()
        for task, key in keys.items():
            try:
                versions = self._refs.versions_in(key, self._refs.parse(key, read[key]))
                if read[key] is None and task in last:  # a removal is written down
                    raise CorruptRef(f"ref {self._storage.where(key)}: gone; restore it")
                found.served[task] = versions.served
                if versions.rollouts and versions.offers:
                    found.offers[task] = versions.offers
                if versions.min_probability:
                    found.min_probabilities[task] = versions.min_probability
            except UNREADABLE as error:
                found.served[task], found.errors[task] = last.get(task), error
        return found


def _same(one: Exception, other: Exception) -> bool:
    return type(one) is type(other) and str(one) == str(other)


def _parse(current: Read) -> _Log:
    """The log; one that cannot be read tells watchers to look at everything."""
    try:
        document = unseal(KEY, getattr(current, "data", b""))
        tasks = tuple(require_name("task", task) for task in document["tasks"])
        return _Log(str(document["log"]), int(document["count"]), tasks)
    except (ValueError, KeyError, TypeError, OverflowError, InvalidName, RecursionError):
        return _Log("", 0, ())
