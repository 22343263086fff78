"""Which version of each task is served, at a cost that does not grow with the number of tasks.

A writer appends the task to `refs/changes`, a short log, before it changes what is served. A
watcher reads the log, one small file, and then only the refs of the tasks in its new part. As the
change comes after its announcement, it looks at an announced task again for a while; and at
everything once in a while, whatever the log says.
"""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from model_store.blobs import Digest
from model_store.errors import CorruptRef, DamagedStore, InvalidName
from model_store.keys import LIVE, pointer_key, version_key
from model_store.names import require_name
from model_store.refs import Refs
from model_store.storage import Small, Storage

logger = logging.getLogger(__name__)

KEY = "refs/changes"
MAX_TASKS = 500  # in the log; a watcher that missed more looks at everything
ANNOUNCED_S = 30.0  # how long a writer may take from the announcement to the change
RESCAN_S = 120.0

_DAMAGED = -1  # stands for what a ref that cannot be read says

Served = tuple[int, Digest]


@dataclass(frozen=True, slots=True)
class _Log:
    """The log: how many changes there were since it was begun, and the tasks of the last ones."""

    name: str  # another one when the log was begun anew
    count: int
    tasks: tuple[str, ...]

    def since(self, known: "_Log | None") -> tuple[str, ...] | None:
        """The tasks announced after `known`; None if that cannot be told."""
        if known is None or known.name != self.name or not self.name:
            return None
        new = self.count - known.count
        return self.tasks[len(self.tasks) - new :] if 0 <= new <= len(self.tasks) else None


def announce(storage: Storage, task: str) -> None:
    """Tell watchers that what is served of a task is about to change."""
    while True:
        current = storage.read(KEY)
        log = _parse(current)
        name = log.name or secrets.token_hex(8)
        tasks = [*log.tasks, task][-MAX_TASKS:]
        data = json.dumps({"count": log.count + 1, "log": name, "tasks": tasks}).encode()
        if storage.replace(KEY, data, current.version if current else None):
            return


def begin(storage: Storage) -> None:
    """Make the log of a new store."""
    data = json.dumps({"count": 0, "log": secrets.token_hex(8), "tasks": []}).encode()
    storage.replace(KEY, data, None)


class Watcher:
    """What one process knows of a store's tasks. May be used by several threads."""

    def __init__(self, storage: Storage, refs: Refs) -> None:
        self._storage = storage
        self._refs = refs
        self._lock = threading.Lock()
        self._log: _Log | None = None
        self._looked = 0.0  # at everything; monotonic seconds, as all times here
        self._polled = 0.0
        self._announced: dict[str, float] = {}  # task -> when it was first seen in the log
        self._served: dict[str, Served] = {}  # replaced, never changed: `snapshot` hands it out

    def snapshot(self) -> Mapping[str, Served]:
        """Task -> (live version, its manifest), as it is now; what is returned stays as it is.

        A task whose refs cannot be read is logged and keeps what was last read of it, or is left
        out if nothing was: damage is no removal, and must not hide other tasks. Raises
        StoreNotFound if the store is there no longer.
        """
        with self._lock:
            now = time.monotonic()
            read = self._storage.read_many([KEY])[KEY]
            if read is None:
                self._refs.require_store()  # a disk that went away has not removed every task
            log = _parse(read)
            new = log.since(self._log)
            # An announced task is let go once it was looked at long enough after that.
            announced = {
                task: since
                for task, since in self._announced.items()
                if self._polled - since < ANNOUNCED_S
            } | dict.fromkeys(log.tasks if new is None else new, now)
            if new is None or now - self._looked >= RESCAN_S:
                self._served = self._look({*self._refs.tasks(), *self._served})
                self._looked = now
            elif announced:
                self._served = self._look(announced)
            # Last, so that what an error has interrupted is done again.
            self._announced, self._log, self._polled = announced, log, now
            return MappingProxyType(self._served)

    def _look(self, tasks: Collection[str]) -> dict[str, Served]:
        """What is served, of which only these tasks may have changed."""
        found = {task: served for task, served in self._read(tasks).items() if served}
        if all(found.get(task) == self._served.get(task) for task in tasks):
            return self._served
        served = self._served.copy()  # to filter 10,000 entries would take five times as long
        for task in tasks:
            served.pop(task, None)
        served.update(found)
        return served

    def _read(self, tasks: Iterable[str]) -> dict[str, Served | None]:
        """What is served of these tasks; what was, where that cannot be read."""
        keys = {task: pointer_key(task, LIVE) for task in tasks}
        read = self._storage.read_many(keys.values())
        found: dict[str, Served | None] = {}
        unknown: dict[str, int] = {}
        for task, key in keys.items():
            number = self._checked(task, lambda key=key: self._refs.parse_pointer(key, read[key]))
            last = self._served.get(task)
            # A removal is written down: a file that is missing is damage.
            if last and (read[key] is None or number in (last[0], _DAMAGED)):
                found[task] = last  # a version never changes
            elif number and number != _DAMAGED:
                unknown[task] = number
        return found | self._resolve(unknown)

    def _resolve(self, numbers: dict[str, int]) -> dict[str, Served | None]:
        keys = {task: version_key(task, number) for task, number in numbers.items()}
        read = self._storage.read_many(keys.values())
        served: dict[str, Served | None] = {}
        for task, key in keys.items():
            digest = self._checked(task, lambda key=key: self._refs.parse_digest(key, read[key]))
            there = digest and digest != _DAMAGED
            last = self._served.get(task)
            served[task] = (numbers[task], cast(Digest, digest)) if there else last
        return served

    def _checked(self, task: str, parse: Callable[[], Any]) -> Any:
        try:
            return parse()
        except CorruptRef as error:
            logger.warning("event=ref_unreadable task=%s error=%r", task, str(error))
            return _DAMAGED


def _parse(current: Small | DamagedStore | None) -> _Log:
    """The log; one that cannot be read tells watchers to look at everything."""
    try:
        document = cast(dict[str, Any], json.loads(getattr(current, "data", b"")))
        tasks = tuple(require_name("task", task) for task in document["tasks"])
        return _Log(str(document["log"]), int(document["count"]), tasks)
    except (ValueError, KeyError, TypeError, OverflowError, InvalidName, RecursionError):
        return _Log("", 0, ())
