"""What `GET /tasks` and `GET /tasks/{task}` say. Reads the store: call it in a thread."""

from __future__ import annotations

import bisect
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_store import Digest, ModelStore, StoreError, TaskPath
from service.access import Grants
from service.errors import BadParameter
from service.tasks import hiding
from service.tasks.catalog import Entry
from service.tasks.reasons import reason
from service.tasks.summaries import Summary

logger = logging.getLogger(__name__)
PAGE = 500  # tasks: their JSON is made within a few milliseconds
Shares = Counter[Digest]  # tasks that use a component


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


def list_tasks(entries: Mapping[str, Entry], grants: Grants, page: Page) -> dict[str, Any]:
    """A page of tasks in short, but for private ones that the request may not know of; `next` is
    the `after` of the page that follows, where there is one.
    """
    shares, seen = _known(entries, grants)
    names = sorted(seen)
    start = bisect.bisect_right(names, page.after)
    end = start + page.limit
    tasks = [_short(task, seen[task], shares, seen) for task in names[start:end]]
    return {"tasks": tasks} | ({"next": names[end - 1]} if end < len(names) else {})


def describe_task(
    store: ModelStore, task: str, entries: Mapping[str, Entry], grants: Grants
) -> dict[str, Any]:
    """One task in full; KeyError if there is none of this name."""
    entry = entries[task]
    shares, seen = _known(entries, grants)
    short = _short(task, entry, shares, seen)
    try:
        published = entry.slot.published()
    except (StoreError, OSError):  # `short` says why
        return short
    path = published.path
    return {
        **short,
        "labels": list(path.labels),
        "input": dict(path.input),
        "architecture": dict(path.architecture),
        "components": [
            {
                "name": name,
                "digest": digest,
                "bytes": published.sizes[name],
                "shared_with": shares[digest] - 1,  # other tasks
            }
            for name, digest in path.components.items()
        ],
        **_subpaths(path, seen),
        "metrics": dict(path.metrics),
        "lineage": _lineage(path, short["parent"]),
        "versions": _versions(store, task),
    }


def _lineage(path: TaskPath, parent: str | None) -> dict[str, Any]:
    """Of a parent that may not be known neither name nor digest."""
    digest = path.lineage.get("parent") if parent is not None else None
    return {**path.lineage, "parent": digest, "parent_task": parent}


def _subpaths(path: TaskPath, seen: Mapping[str, Entry]) -> dict[str, Any]:
    """The networks that a multipath version mixes; a task's name only where it may be known."""
    shown = ("name", "input", "architecture", "answers", "connector")
    found = [{name: one.get(name) for name in shown} for one in path.subpaths]
    for one, whole in zip(found, path.subpaths, strict=True):
        task = whole.get("task")
        one["task"] = task if isinstance(task, str) and task in seen else None
    return {"subpaths": found} if found else {}


def _versions(store: ModelStore, task: str) -> list[dict[str, Any]]:
    """What `?version=` may name; empty if one of them cannot be read."""
    try:
        history, names = store.history(task), store.aliases(task)
    except (StoreError, OSError) as error:
        logger.warning("event=history_unreadable task=%s error=%r", task, str(error))
        return []
    return [
        {
            "version": one.version,
            "names": [name for name, number in names.items() if number == one.version],
            "digest": one.digest,
            "created": one.created,
        }
        for one in history
    ]


def _read(entry: Entry) -> tuple[Summary | None, str | None]:
    """The version that answers, or why it cannot be read."""
    try:
        return entry.slot.summary(), None
    except (StoreError, OSError) as error:
        return None, reason(error)


def _known(entries: Mapping[str, Entry], grants: Grants) -> tuple[Shares, Mapping[str, Entry]]:
    """The tasks that a request may know of, and what these share with one another.

    Reads what is not known of the tasks; half of that time is left to requests.
    """
    shares: Shares = Counter()
    seen: dict[str, Entry] = {}
    for task, entry in entries.items():
        started, known = time.monotonic(), entry.slot.summarised
        summary, _ = _read(entry)
        if hiding.seen({task: entry}, grants):
            seen[task] = entry
            shares.update(summary.components if summary is not None else ())
        if not known:
            time.sleep(time.monotonic() - started)
    return shares, seen


def _short(task: str, entry: Entry, shares: Shares, seen: Mapping[str, Entry]) -> dict[str, Any]:
    summary, unreadable = _read(entry)
    live = entry.successor or entry.slot
    failure = entry.unread or unreadable or (live.failure.reason if live.failure else None)
    short: dict[str, Any] = {
        "id": task,
        "state": "failed" if unreadable else entry.slot.state,
        "version": entry.slot.version or None,  # 0 where it cannot be read which it is
        "live_version": live.version
        or None,  # differs while a new version is loading or cannot be loaded
    }
    if failure is not None:
        short["reason"] = failure
    if summary is not None:
        short.update(_facts(summary, shares, seen))
    return short


def _facts(summary: Summary, shares: Shares, seen: Mapping[str, Entry]) -> dict[str, Any]:
    sizes = zip(summary.components, summary.sizes, strict=True)
    own = sum(size for digest, size in sizes if shares[digest] == 1)
    total = sum(summary.sizes)
    return {
        "digest": summary.digest,
        "created": summary.created,
        "classes": summary.classes,
        "quality": dict(summary.quality),
        "parameters": dict(summary.parameters),
        "bytes": {"total": total, "own": own, "shared": total - own},
        "parent": summary.parent if summary.parent in seen else None,  # it may be private
        "private": summary.private,
    }
