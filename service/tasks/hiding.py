"""Private tasks: to a request that may not know of one, it looks like a task that does not exist.

No answer, header, hint, list or error names, counts or orders a task that its caller may not see,
and it is refused before anything of it is loaded. Totals of `/metrics`, and how loaded the gateway
is, are the stated exceptions.

Private is what the manifest of the version that answers says, or that of the live one, which may
still be loading or be one that cannot be loaded. While they cannot be read, what was last read of
the task holds; where nothing ever was, the task may be private, and only those see it who have to
look after it (`Grants.sees`): to others it does not exist.

Hidden are tasks, not single versions: of a task that is public now, the numbers, names, digests and
times of all its versions are told. What an earlier private version is, and what it answers, is told
only to those who may know of private tasks of this name.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial

from service.access import Grants
from service.compute.paths import LoadedPath
from service.errors import Unavailable, UnknownTask
from service.tasks.catalog import Catalog, Entry
from service.tasks.reasons import no_task, no_version

HINTS = 3  # names that a refusal tells
READ_AGAIN_S = 1.0  # after a manifest could not be read
Look = Callable[[Callable[[], bool | None]], Awaitable[bool | None]]


async def acquire(
    catalog: Catalog, grants: Grants, task: str, version: int | str | None = None
) -> LoadedPath:
    """`catalog.acquire` for a request to classify; raises also what its grants refuse."""
    grants.require_classify(task)
    await require(catalog, grants, task)
    slot = await catalog.slot(task, version)
    if not (slot.summarised or grants.sees(task, private=True)):
        with suppress(Exception):  # loading it says what is wrong
            await catalog.versions.ask(slot.summary)
    summary = slot.known_summary
    if summary is not None and not grants.sees(task, summary.private):
        raise no_version(task, slot.version)
    path = await catalog.loaded(slot)
    if not grants.sees(task, path.published.path.private):  # another by now
        raise no_version(task, path.published.version)
    return path


async def require(catalog: Catalog, grants: Grants, task: str, look: Look | None = None) -> Entry:
    """`catalog.require` for a request: raises UnknownTask also for what it may not know of.

    `look` runs in a thread what may read the store, by default in those of the catalog: questions
    about tasks bring threads of their own, so that they take none from answers.
    """
    try:
        entry = await catalog.require(task)
    except UnknownTask:
        raise await unknown(catalog, grants, task) from None
    if not await visible(grants, task, entry, look or catalog.versions.ask):
        await asyncio.wrap_future(catalog.refresh())  # as long as for a task that does not exist
        raise await unknown(catalog, grants, task)
    return entry


async def visible(grants: Grants, task: str, entry: Entry, look: Look) -> bool:
    """Whether a request may know of a task; `look` reads what is not known yet, as in `require`."""
    if grants.sees(task, private=True):
        return True
    if not entry.slot.summarised:
        await look(partial(private, entry))
    return grants.sees(task, entry.known_private())


def seen(entries: Mapping[str, Entry], grants: Grants) -> dict[str, Entry]:
    """The tasks that a request may know of. Reads the store: call it in a thread."""
    return {task: entry for task, entry in entries.items() if sees(grants, task, entry)}


async def unknown(catalog: Catalog, grants: Grants, task: str) -> UnknownTask:
    """What a request is told of a name that is no task's, with the names that it may be meant for.

    These are the same whatever tasks there are that the request may not know of or do nothing with.
    """
    entries = catalog.entries()

    def useful(name: str) -> bool:
        allowed = grants.read or grants.classifies(name)
        return allowed and name in entries and sees(grants, name, entries[name])

    def near() -> list[str]:
        return list(itertools.islice(filter(useful, catalog.near(task)), HINTS))

    try:
        return no_task(task, await catalog.names.ask(near))
    except Unavailable:  # of too many unknown names at once: they do without
        return no_task(task)


def sees(grants: Grants, task: str, entry: Entry) -> bool:
    """Whether a request may know of a task. May read the store: call it in a thread."""
    return grants.sees(task, private=True) or grants.sees(task, private(entry))


def private(entry: Entry) -> bool | None:
    """Whether a task is; None if that is not known. May read the store: call it in a thread."""
    slot = entry.slot
    if not slot.summarised and time.monotonic() >= entry.read_again_at:
        try:
            slot.summary()
        except Exception:  # whatever keeps it from being read: the task's own failure says what
            entry.read_again_at = time.monotonic() + READ_AGAIN_S
    return entry.known_private()
