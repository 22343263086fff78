"""Which tasks changed, for the streams of `GET /system/events`.

One look compares all tasks with what they were at the last one, for all streams together; without a
stream nobody looks. A look waits for no store.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from service.tasks.entry import Entry
from service.tasks.lookups import Shared

TICK_S = 1.0
KEPT = 60  # looks that found changes; a stream that missed more has to read all again
Mark = tuple[Any, ...]
Changed = Mapping[str, bool | None]  # task -> whether it was private before: None if not known


class Changes:
    """What has changed since a number; but for `_look`, for the event loop's thread."""

    def __init__(self, entries: Callable[[], Mapping[str, Entry]]) -> None:
        """`entries` are the tasks that there are now."""
        self._entries = entries
        self._marks: dict[str, Mark] = {}
        self._log: deque[tuple[int, Changed]] = deque(maxlen=KEPT)
        self._looked = float("-inf")
        self._looking = Shared("changes of tasks", self._look)
        self.number = 0  # of the last change

    async def look(self) -> None:
        """Looks, unless somebody did within the last TICK_S."""
        if time.monotonic() - self._looked >= TICK_S:
            await self._looking.ask()

    def since(self, number: int) -> Changed | None:
        """The tasks that changed after this number; None if that is not known any more."""
        if number < self.number - len(self._log):
            return None
        found: dict[str, bool | None] = {}
        for when, changed in self._log:
            if when > number:
                found = {**changed, **found}  # what was known of each at first
        return found

    def close(self) -> None:
        """Ends its thread."""
        self._looking.close()

    def _look(self) -> None:
        before, entries = self._marks, self._entries()
        marks = {task: _mark(entry) for task, entry in entries.items()}
        changed = {task for task, mark in marks.items() if before.get(task) != mark}
        changed |= before.keys() - marks.keys()
        if changed:
            private = {task: before[task][0] if task in before else None for task in changed}
            self._log.append((self.number + 1, private))
            self.number += 1
        self._marks, self._looked = marks, time.monotonic()


def _mark(entry: Entry) -> Mark:
    slot, successor = entry.slot, entry.successor
    failure = slot.failure if successor is None else successor.failure
    return (
        entry.known_private(),
        slot.version,
        slot.state,
        None if successor is None else (successor.version, successor.state),
        None if failure is None else failure.reason,
        entry.unread,
    )
