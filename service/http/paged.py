"""Calls that answer with a page of the tasks: who may ask, which part, and in which thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from service.access import Grants
from service.http.listing import Page
from service.http.queries import query
from service.runtime import Runtime
from service.tasks.entry import Entry

Make = Callable[[Mapping[str, Entry], Grants, Page], Response]


async def paged(request: Request, make: Make) -> Response:
    """What `make` answers, in a thread that may read the store.

    Raises Unauthenticated, Forbidden, BadParameter, DeadlineExceeded; Unavailable until the store
    was read once.
    """
    runtime: Runtime = request.app.state.runtime
    grants = runtime.access.of(request.scope)
    grants.require_read()
    runtime.catalog.require_followed()
    entries = runtime.catalog.entries()
    part = Page.of(query(request, "after", "limit"))
    async with runtime.in_time():
        return await runtime.lists.ask(lambda: make(entries, grants, part))
