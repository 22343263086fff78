"""Private tasks: to a request that may not know of one, it looks like a task that does not exist.

Its name is in no list and in no hint, and it is refused before anything of it is loaded. A task
whose manifest cannot be read is not known to be private: it is shown as failed, and answers nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from model_store import StoreError
from service.access import Grants
from service.compute.paths import LoadedPath
from service.errors import UnknownTask
from service.tasks.catalog import Catalog, Entry


async def acquire(
    catalog: Catalog, grants: Grants, task: str, version: int | str | None = None
) -> LoadedPath:
    """`catalog.acquire` for a request to classify; raises also what its grants refuse."""
    grants.require_classify(task)
    await require(catalog, grants, task)
    try:
        path = await catalog.acquire(task, version)
    except UnknownTask as error:
        raise await _without_private(catalog, grants, task, error) from None
    if not grants.sees(task, path.published.path.private):  # the version that was asked for
        raise await unknown(catalog, grants, task)
    return path


async def require(catalog: Catalog, grants: Grants, task: str) -> None:
    """`catalog.require` for a request: raises UnknownTask also for what it may not know of."""
    try:
        entry = await catalog.require(task)
    except UnknownTask as error:
        raise await _without_private(catalog, grants, task, error) from None
    if entry.slot.state == "ready":  # its manifest has been read: no need of a thread
        visible = _sees(grants, task, entry)
    else:
        visible = await asyncio.to_thread(_sees, grants, task, entry)
    if not visible:
        await asyncio.wrap_future(catalog.refresh())  # as long as for a task that does not exist
        raise await unknown(catalog, grants, task)


def seen(entries: Mapping[str, Entry], grants: Grants) -> dict[str, Entry]:
    """The tasks that a request may know of. Reads the store: call it in a thread."""
    return {task: entry for task, entry in entries.items() if _sees(grants, task, entry)}


async def unknown(catalog: Catalog, grants: Grants, task: str) -> UnknownTask:
    """`catalog.unknown` for a request."""

    def shows(name: str) -> bool:
        return name in entries and _sees(grants, name, entries[name])

    entries = catalog.entries()
    return await asyncio.to_thread(catalog.unknown, task, shows)


def _sees(grants: Grants, task: str, entry: Entry) -> bool:
    if grants.sees(task, private=True):
        return True
    try:
        return not entry.slot.summary().private
    except (StoreError, OSError):
        return True


async def _without_private(
    catalog: Catalog, grants: Grants, task: str, error: UnknownTask
) -> UnknownTask:
    return await unknown(catalog, grants, task) if error.nearest else error
