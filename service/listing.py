"""What `GET /tasks` and `GET /tasks/{task}` say. Reads the store: call it in a thread."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from model_store import Digest, ModelStore, Published, StoreError
from service.catalog import Entry

logger = logging.getLogger(__name__)
Shares = Counter[Digest]  # tasks that use a component


def list_tasks(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """All tasks in short."""
    shares = _shares(entries)
    return {"tasks": [_short(task, entry, shares) for task, entry in entries.items()]}


def describe_task(store: ModelStore, task: str, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """One task in full; KeyError if there is none of this name."""
    entry = entries[task]
    shares = _shares(entries)
    short = _short(task, entry, shares)
    published, _ = _read(entry)
    if published is None:
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
        "metrics": dict(path.metrics),
        "lineage": dict(path.lineage),
        "versions": _versions(store, task),
    }


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


def _read(entry: Entry) -> tuple[Published | None, str | None]:
    """The version that answers, or why it cannot be read."""
    try:
        return entry.slot.published(), None
    except (StoreError, OSError) as error:
        return None, f"{type(error).__name__}: {error}"


def _shares(entries: Mapping[str, Entry]) -> Shares:
    shares: Shares = Counter()
    for entry in entries.values():
        published, _ = _read(entry)
        if published is not None:
            shares.update(set(published.path.components.values()))
    return shares


def _short(task: str, entry: Entry, shares: Shares) -> dict[str, Any]:
    published, unreadable = _read(entry)
    live = entry.successor or entry.slot
    reason = unreadable or (live.failure.reason if live.failure else None)
    short: dict[str, Any] = {
        "id": task,
        "state": "failed" if unreadable else entry.slot.state,
        "version": entry.slot.version,
        "live_version": live.version,  # differs while a new version is loading or cannot be loaded
    }
    if reason is not None:
        short["reason"] = reason
    if published is not None:
        short.update(_facts(published, shares))
    return short


def _facts(published: Published, shares: Shares) -> dict[str, Any]:
    path = published.path
    sizes = {digest: published.sizes[name] for name, digest in path.components.items()}
    own = sum(size for digest, size in sizes.items() if shares[digest] == 1)
    total = sum(sizes.values())
    return {
        "digest": published.digest,
        "created": published.created,
        "classes": len(path.labels),
        "quality": _quality(path.metrics),
        "parameters": dict(path.parameters),
        "bytes": {"total": total, "own": own, "shared": total - own},
        "parent": path.lineage.get("parent_task"),
        "private": path.private,
    }


def _quality(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy by split."""
    return {
        split: found["accuracy"]
        for split, found in metrics.items()
        if isinstance(found, Mapping) and isinstance(found.get("accuracy"), int | float)
    }
