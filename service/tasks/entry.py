"""A task of the catalog, and who may know of it.

A task is private if the manifest of the version that answers says so, or that of the live version,
which may be loading or fail to load. While these cannot be read, the last one that was read counts.
If none was ever read, the task may be private: only those who run the gateway see it
(`Grants.sees`), and for others it does not exist.

Tasks are hidden, single versions are not: of a task that is public now, the numbers, names, digests
and times of all versions are shown. What an earlier private version is and answers is shown only to
those who may know of private tasks of this name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from service.access import Grants
from service.tasks.slot import Slot

READ_AGAIN_S = 1.0  # after a manifest could not be read


@dataclass(slots=True)
class Entry:
    """A task: the version that answers, and the live one while that is still loading."""

    slot: Slot
    successor: Slot | None = None
    private: bool | None = None  # the last version that could be read; None until there is one
    read_again_at: float = 0.0  # a time of `time.monotonic`, where its manifest cannot be read
    unread: str | None = None  # why its refs cannot be read now: they last said what answers

    @property
    def is_public(self) -> bool:
        """Whether everybody may know of it, without a look at the store: True only if the version
        that answers is in memory and no other one is about to replace it.
        """
        path = self.slot.path
        return path is not None and self.successor is None and not path.published.path.private

    def known_private(self) -> bool | None:
        """Whether the task is private, by what has been read; None if nothing has been."""
        summary, following = self.slot.known_summary, self.successor
        later = None if following is None else following.known_summary
        if summary is not None or later is not None:
            self.private = any(one.private for one in (summary, later) if one is not None)
        return self.private

    def read_private(self) -> bool | None:
        """Whether it is private; None if not known. May read the store: call it in a thread."""
        slot = self.slot
        if not slot.summarised and time.monotonic() >= self.read_again_at:
            try:
                slot.summary()
            except Exception:  # of any kind: the task's own failure says why it cannot be read
                self.read_again_at = time.monotonic() + READ_AGAIN_S
        return self.known_private()

    def seen_by(self, task: str, grants: Grants) -> bool:
        """Whether a request may know of it. May read the store: call it in a thread."""
        return grants.sees(task, private=True) or grants.sees(task, self.read_private())


def seen(entries: Mapping[str, Entry], grants: Grants) -> dict[str, Entry]:
    """The tasks that a request may know of. Reads the store: call it in a thread."""
    return {task: entry for task, entry in entries.items() if entry.seen_by(task, grants)}


def failed(entries: Mapping[str, Entry], others: Iterable[Slot]) -> Iterator[tuple[str, int, str]]:
    """Task, number and reason of versions that cannot be loaded: of live ones, and some others."""
    for slot in (*(entry.successor or entry.slot for entry in entries.values()), *others):
        failure = slot.failure
        if failure is not None and slot.path is None:
            yield slot.task, slot.version, failure.reason


def live(entries: Mapping[str, Entry]) -> Iterator[tuple[str, int]]:
    """Task and number of the versions that answer, of tasks in memory."""
    for entry in entries.values():
        if entry.slot.path is not None:
            yield entry.slot.task, entry.slot.version
