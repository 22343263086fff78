"""`GET /system/events`: changes of `GET /system`, as server-sent events.

    open    the stream follows from here on: what is read after it misses nothing
    tasks   tasks that are new or have changed, as in `GET /system`
    removed names of tasks that are gone
    lately  the tasks with requests lately, with their numbers, every two seconds if they differ
    reload  more has changed than is remembered: read all again
    end     the gateway ends

A stream ends with the gateway's drain, or when its token is taken away.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from functools import partial

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.access import Grants
from service.errors import Forbidden, Unauthenticated
from service.http.listing import PAGE
from service.http.room import Holder, caller_of
from service.page.changes import TICK_S, Changed
from service.runtime import Runtime

QUIET_TICKS = 15  # without an event, until a comment shows that the stream lives
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Events(StreamingResponse):
    """A stream, which counts from its beginning to its end."""

    def __init__(self, runtime: Runtime, scope: Scope, grants: Grants) -> None:
        events = _events(runtime, scope)
        super().__init__(events, headers=HEADERS, media_type="text/event-stream")
        self._room = runtime.streams
        self._holder = Holder(caller_of(grants.name, scope), 1.0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Unavailable where there are too many."""
        with self._room.holding(1, [self._holder]):
            await super().__call__(scope, receive, send)


async def _events(runtime: Runtime, scope: Scope) -> AsyncIterator[bytes]:
    await runtime.changes.look()
    number, told, quiet = runtime.changes.number, b"", 0
    yield _event("open", b"{}")
    for tick in itertools.count():
        await asyncio.sleep(TICK_S)
        grants = _granted(runtime, scope)
        if grants is None or runtime.draining:
            break
        await runtime.changes.look()
        found: list[bytes] = []
        changed, number = runtime.changes.since(number), runtime.changes.number
        if changed is None:
            found.append(_event("reload", b"{}"))
        elif changed:
            found += await runtime.lists.ask(partial(_told, runtime, changed, grants))
        if tick % 2 == 0:
            busy = await runtime.lists.ask(partial(_busy, runtime, grants))
            found += [_event("lately", busy)] if busy != told else []
            told = busy
        quiet = 0 if found else quiet + 1
        if found or quiet % QUIET_TICKS == 0:
            yield b"".join(found) or b": quiet\n\n"
    yield _event("end", b"{}")


def _granted(runtime: Runtime, scope: Scope) -> Grants | None:
    """What the stream's request may know by now; None if nothing any more."""
    client = scope.get("client")
    try:
        grants = runtime.access.rights(scope["headers"], client and client[0], scope["scheme"])
    except (Unauthenticated, Forbidden):
        return None
    return grants if grants.read else None


def _told(runtime: Runtime, changed: Changed, grants: Grants) -> list[bytes]:
    """Reads the store: call it in a thread."""
    entries = runtime.catalog.entries()
    seen = [name for name in changed if name in entries and entries[name].seen_by(name, grants)]
    hidden = changed.keys() - seen
    if any(
        changed[name] is None and not grants.sees(name, None) for name in hidden - entries.keys()
    ):
        return [
            _event("reload", b"{}")
        ]  # it came and went: nobody found out whether it was private
    gone = [name for name in hidden if grants.sees(name, changed[name])]
    events = [
        _event("tasks", runtime.system.described(entries, seen[start : start + PAGE], grants))
        for start in range(0, len(seen), PAGE)
    ]
    return events + ([_event("removed", json.dumps(gone).encode())] if gone else [])


def _busy(runtime: Runtime, grants: Grants) -> bytes:
    busy = runtime.system.busy(runtime.catalog.entries(), grants)
    return json.dumps(busy).encode()


def _event(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data.replace(b"\n", b""))
