"""What `GET /tasks` and `GET /tasks/{task}` say. Reads the store: call it in a thread."""

from __future__ import annotations

import bisect
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_store import Digest, ModelStore, StoreError, TaskPath
from service.access import Grants
from service.errors import BadParameter
from service.tasks.entry import Entry
from service.tasks.reasons import reason
from service.tasks.sharing import Sharing
from service.tasks.store_health import StoreAway
from service.tasks.summaries import Summary
from vit.activation import TEMPERATURE

logger = logging.getLogger(__name__)
PAGE = 500  # tasks: their JSON is made within a few milliseconds
VERSIONS = 20  # of a task, that its description lists


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of the list of tasks is wanted."""

    after: str = ""  # the last name of the page before
    limit: int = PAGE

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Page:
        """From `?after=&limit=`. Raises BadParameter."""
        limit = query.get("limit", str(PAGE))
        whole = limit.isascii() and limit.isdecimal() and len(limit) < 10
        if not (whole and 0 < int(limit) <= PAGE):
            raise BadParameter(f"limit must be 1 to {PAGE}, found {limit[:50]!r}")
        return cls(query.get("after", ""), int(limit))


class Known:
    """What one request may know of tasks and of what they share."""

    def __init__(self, entries: Mapping[str, Entry], grants: Grants, sharing: Sharing) -> None:
        self._entries = entries
        self._grants = grants
        self._sharing = sharing
        self._users: dict[Digest, int] = {}

    def entry(self, task: str) -> Entry:
        """That of a task whose components are to be counted. Raises KeyError."""
        self._sharing.learn({task: self._entries[task]})
        return self._entries[task]

    def users(self, digest: Digest) -> int:
        """How many tasks use a component."""
        if digest not in self._users:
            self._users[digest] = self._sharing.users(digest, self._grants)
        return self._users[digest]

    def name(self, task: object) -> str | None:
        """A task's name if it may be known: it may be private, or gone."""
        entry = self._entries.get(task) if isinstance(task, str) else None
        if entry is None or not entry.seen_by(str(task), self._grants):
            return None
        return str(task)


def list_tasks(
    entries: Mapping[str, Entry], grants: Grants, page: Page, sharing: Sharing
) -> dict[str, Any]:
    """A page of tasks in short, without private ones that the request may not know of. If more
    follow, `next` is the `after` of the next page.
    """
    shown, more = part_of(entries, grants, page)
    sharing.learn({task: entries[task] for task in shown})
    known = Known(entries, grants, sharing)
    tasks = [short(task, entries[task], known) for task in shown]
    return {"tasks": tasks} | ({"next": shown[-1]} if more else {})


def part_of(entries: Mapping[str, Entry], grants: Grants, page: Page) -> tuple[Sequence[str], bool]:
    """The names of a page's tasks that the request may know of, and whether more follow."""
    names = list(entries)  # in order
    following = itertools.islice(names, bisect.bisect_right(names, page.after), None)
    visible = (task for task in following if entries[task].seen_by(task, grants))
    shown = list(itertools.islice(visible, page.limit))
    return shown, next(visible, None) is not None


def describe_task(
    store: ModelStore, task: str, known: Known, rollouts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """One task in full, with what this gateway counted of its roll-outs, by alias.

    KeyError if there is none of this name.
    """
    entry = known.entry(task)
    shown = short(task, entry, known)
    try:
        published = entry.slot.published()
    except (StoreError, OSError):  # `shown` says why
        return shown
    path = published.path
    return {
        **shown,
        "labels": list(path.labels),
        "input": dict(path.input),
        "architecture": dict(path.architecture),
        "components": [
            {
                "name": name,
                "digest": digest,
                "bytes": published.sizes[name],
                "shared_with": max(0, known.users(digest) - 1),  # other tasks
            }
            for name, digest in path.components.items()
        ],
        **_subpaths(path, known),
        "metrics": dict(path.metrics),
        "temperature": path.extra.get(TEMPERATURE, 1.0),
        **_data(path),
        "lineage": _lineage(path, shown["parent"]),
        **_versions(store, task, rollouts),
    }


def _data(path: TaskPath) -> dict[str, Any]:
    """What was found in the pictures that it was trained on, where the version tells it."""
    data = path.extra.get("data")
    return {"data": dict(data)} if isinstance(data, Mapping) else {}


def _lineage(path: TaskPath, parent: str | None) -> dict[str, Any]:
    """The parent; without name and digest if the request may not know of it."""
    digest = path.lineage.get("parent") if parent is not None else None
    return {**path.lineage, "parent": digest, "parent_task": parent}


def _subpaths(path: TaskPath, known: Known) -> dict[str, Any]:
    """The networks that a multipath version mixes; a task's name only where it may be known."""
    shown = ("name", "input", "architecture", "answers", "connector")
    found = [{name: one.get(name) for name in shown} for one in path.subpaths]
    for one, whole in zip(found, path.subpaths, strict=True):
        one["task"] = known.name(whole.get("task"))
    return {"subpaths": found} if found else {}


def _versions(
    store: ModelStore, task: str, numbers: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Below which probability answers abstain, the newest versions that `?version=` may name, how
    many more there are at most, and roll-outs.
    """
    try:
        newest, more = store.newest(task, VERSIONS)
        rollouts = {
            name: one.to_json() | ({"here": numbers[name]} if name in numbers else {})
            for name, one in store.rollouts(task).items()
        }
        least = {"min_probability": store.min_probability(task)}
    except (StoreError, OSError) as error:
        logger.warning("event=history_unreadable task=%s error=%r", task, str(error))
        newest, more, rollouts, least = [], 0, {}, {}
    versions = [
        {
            "version": one.version,
            "names": list(one.names),
            "digest": one.digest,
            "created": one.created,
        }
        for one in newest
    ]
    found = {**least, "versions": versions, "older_versions": more}
    return found | ({"rollouts": rollouts} if rollouts else {})


def _read(entry: Entry) -> tuple[Summary | Exception, str | None]:
    """The version that answers, or the error that keeps it from being read, also in words."""
    try:
        return entry.slot.summary(), None
    except (StoreError, OSError) as error:
        return error, reason(error)


def short(task: str, entry: Entry, known: Known) -> dict[str, Any]:
    """A task as lists have it. May read the store."""
    summary, unreadable = _read(entry)
    live = entry.successor or entry.slot
    failure = entry.unread or unreadable or (live.failure.reason if live.failure else None)
    found: dict[str, Any] = {
        "id": task,
        # Where the store as a whole is away, that is no failure of the task.
        "state": "failed"
        if unreadable and not isinstance(summary, StoreAway)
        else entry.slot.state,
        "version": entry.slot.version or None,  # 0 where it cannot be read which it is
        # Differs while a new version is loading or cannot be loaded.
        "live_version": live.version or None,
    }
    if failure is not None:
        found["reason"] = failure
    if isinstance(summary, Summary):
        found.update(_facts(summary, known))
    return found


def _facts(summary: Summary, known: Known) -> dict[str, Any]:
    sizes = zip(summary.components, summary.sizes, strict=True)
    own = sum(size for digest, size in sizes if known.users(digest) <= 1)
    total = sum(summary.sizes)
    return {
        "digest": summary.digest,
        "created": summary.created,
        "classes": summary.classes,
        "activation": summary.activation,
        "quality": dict(summary.quality),
        "parameters": dict(summary.parameters),
        "bytes": {"total": total, "own": own, "shared": total - own},
        "parent": known.name(summary.parent),
        "private": summary.private,
    }
