"""What `GET /system` says: tasks, their paths, and the components that these share.

May read the store: call it in a thread. Tasks are hidden as in `GET /tasks`, and a component counts
only the tasks that the request may know of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model_store import Digest
from service.access import LOCAL, Grants
from service.http.listing import Known, Page, part_of, short
from service.page.traffic import Lately, Traffic
from service.tasks.entry import Entry
from service.tasks.sharing import Sharing

STATES = ("absent", "loading", "resident", "failed")  # of a component; what one task says counts
MOST_BUSY = 500  # tasks whose requests an event tells


@dataclass(frozen=True, slots=True)
class System:
    """The tasks of one gateway; any thread."""

    sharing: Sharing
    traffic: Traffic

    def page(self, entries: Mapping[str, Entry], grants: Grants, page: Page) -> bytes:
        """The JSON of a page of tasks.

        It is made task by task, so that no step keeps the interpreter from other threads for long.
        """
        names, more = part_of(entries, grants, page)
        last = {"next": names[-1]} if more else {}
        return _joined({"you": _you(grants)}, *self._lists(entries, names, grants), last)

    def described(
        self, entries: Mapping[str, Entry], names: Iterable[str], grants: Grants
    ) -> bytes:
        """The JSON of these tasks, as far as the request may know of them."""
        shown = [name for name in names if name in entries]
        seen = [name for name in shown if entries[name].seen_by(name, grants)]
        return _joined({}, *self._lists(entries, seen, grants), {})

    def busy(self, entries: Mapping[str, Entry], grants: Grants) -> dict[str, Any]:
        """Requests lately, of the tasks that have any: the busiest ones."""
        found = sorted(self.traffic.lately().items(), key=lambda item: -item[1].requests)
        seen = (
            (task, one.content())
            for task, one in found
            if task in entries and entries[task].seen_by(task, grants)
        )
        return {task: one for (task, one), _ in zip(seen, range(MOST_BUSY), strict=False)}

    def _lists(
        self, entries: Mapping[str, Entry], names: Iterable[str], grants: Grants
    ) -> tuple[list[bytes], list[bytes]]:
        """Tasks and components, each as its JSON."""
        names = list(names)
        self.sharing.learn({name: entries[name] for name in names})
        view = _View(Known(entries, grants, self.sharing), self.traffic.lately())
        tasks = [json.dumps(view.task(name, entries[name])).encode() for name in names]
        return tasks, [json.dumps(one).encode() for one in view.components()]


class _View:
    """What one answer says; it numbers the components in the order in which tasks name them."""

    def __init__(self, known: Known, lately: Mapping[str, Lately]) -> None:
        self._known = known
        self._lately = lately
        self._numbers: dict[Digest, int] = {}
        self._sizes: list[int] = []
        self._states: list[str] = []

    def task(self, name: str, entry: Entry) -> dict[str, Any]:
        found = short(name, entry, self._known)
        summary = entry.slot.known_summary
        if summary is not None:
            numbers = list(map(self._number, summary.components, summary.sizes))
            for digest, number in zip(summary.components, numbers, strict=True):
                state = _state(digest, found["state"], found.get("reason", ""))
                self._states[number] = max(self._states[number], state, key=STATES.index)
            found |= {
                "components": {part: numbers[place] for part, place in summary.places},
                "examples": dict(summary.examples),
                "fingerprint": summary.fingerprint,
            }
        lately = self._lately.get(name)
        return found | ({} if lately is None else {"lately": lately.content()})

    def _number(self, digest: Digest, size: int) -> int:
        found = self._numbers.setdefault(digest, len(self._sizes))
        if found == len(self._sizes):
            self._sizes.append(size)
            self._states.append("absent")
        return found

    def components(self) -> Iterator[dict[str, Any]]:
        for digest, number in self._numbers.items():
            yield {
                "digest": digest,
                "bytes": self._sizes[number],
                "tasks": self._known.users(digest),
                "state": self._states[number],
            }


def _state(digest: Digest, task: str, reason: str) -> str:
    """A component's state, as far as one of its tasks tells: others may hold it in memory."""
    if task == "failed":
        return "failed" if digest in reason else "absent"
    return {"ready": "resident", "loading": "loading"}.get(task, "absent")


def _you(grants: Grants) -> dict[str, Any]:
    """What the request may do, for pages that offer only that."""
    return {"name": grants.name, "tokens": grants is not LOCAL, "admin": grants.admin}


def _joined(
    head: Mapping[str, Any], tasks: list[bytes], components: list[bytes], last: Mapping[str, Any]
) -> bytes:
    lists = b'"tasks": [%b], "components": [%b]' % (b",\n".join(tasks), b",\n".join(components))
    around = [json.dumps(one)[1:-1].encode() for one in (head, last)]
    parts = [around[0], lists, around[1]]
    return b"{%b}\n" % b", ".join(part for part in parts if part)
