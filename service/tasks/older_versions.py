"""Versions that are not live and were asked for by `?version=`; the latest few stay loaded."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

from model_store import StoreError, UnknownTask, UnknownVersion
from service.errors import Unavailable
from service.tasks.loader import Loader
from service.tasks.reasons import no_version, reason
from service.tasks.slot import Slot

logger = logging.getLogger(__name__)
KEPT = 4


class OlderVersions:
    """Of all tasks of a catalog; any thread."""

    def __init__(self, loader: Loader, confirm: Callable[[], None]) -> None:
        """`confirm` raises Unavailable unless the store is there."""
        self._loader = loader
        self._confirm = confirm
        self._lock = threading.Lock()
        self._slots: OrderedDict[tuple[str, int], Slot] = OrderedDict()

    def find(self, task: str, version: int) -> Slot | None:
        """A version that is known already."""
        with self._lock:
            slot = self._slots.get((task, version))
            if slot is not None:
                self._slots.move_to_end((task, version))
            return slot

    def read(self, task: str, version: int) -> Slot:
        """A slot for a version, if the store has it; blocks. Raises UnknownTask or Unavailable."""
        try:
            self._loader.health.require()
            digest = self._loader.store.version(task, version)
        except (UnknownTask, UnknownVersion):  # numbers nobody published take no room
            self._confirm()
            raise no_version(task, version) from None
        except (StoreError, OSError) as error:
            detail = f"version {version} of {task!r}: {reason(error)}"
            raise Unavailable(detail, retry_after_s=1) from None
        with self._lock:
            slot = self._slots.setdefault(
                (task, version), Slot(self._loader, task, version, digest)
            )
            while len(self._slots) > KEPT:
                self._slots.popitem(last=False)
            return slot

    def slots(self) -> list[Slot]:
        """All that are known."""
        with self._lock:
            return list(self._slots.values())

    def forget(self, task: str) -> None:
        """The task is gone."""
        with self._lock:
            for key in [key for key in self._slots if key[0] == task]:
                del self._slots[key]

    def drop_removed(self) -> None:
        """Drops versions that the store no longer has; reads a few small files."""
        with self._lock:
            known = list(self._slots.items())
        for (task, version), slot in known:
            try:
                gone = self._loader.store.version(task, version) != slot.digest
            except (UnknownTask, UnknownVersion):
                gone = True
            except (StoreError, OSError) as error:  # of this version alone: it stays
                logger.warning(
                    "event=version_unreadable task=%s version=%d error=%r", task, version, error
                )
                continue
            if gone:
                with self._lock:
                    self._slots.pop((task, version), None)
