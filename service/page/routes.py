"""The page at `/` and its files, `GET /system`, and `/docs`."""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.http import compression
from service.http.listing import Page
from service.http.queries import query
from service.page.events import Events
from service.runtime import Runtime


def _runtime(request: Request) -> Runtime:
    return request.app.state.runtime


async def system(request: Request) -> Response:
    """GET /system"""
    runtime = _runtime(request)
    grants = runtime.access.of(request.scope)
    grants.require_read()
    runtime.catalog.require_followed()
    entries = runtime.catalog.entries()
    part = Page.of(query(request, "after", "limit"))
    known, encoding = request.headers.get("if-none-match", ""), compression.wanted(request)

    def made() -> Response:
        return _answer(runtime.system.page(entries, grants, part), known, encoding)

    async with runtime.in_time():
        return await runtime.lists.ask(made)


def _answer(body: bytes, known: str, encoding: str | None) -> Response:
    """The body with its digest as ETag, or 304 for a client that knows it."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "no-cache", "vary": "accept-encoding, authorization"}
    if tag in [one.strip().removeprefix("W/") for one in known.split(",")]:
        return Response(status_code=304, headers=headers)
    if encoding is not None:
        body, headers["content-encoding"] = compression.deflate(body, encoding), encoding
    return Response(body, headers=headers, media_type="application/json")


async def events(request: Request) -> Response:
    """GET /system/events"""
    runtime = _runtime(request)
    grants = runtime.access.of(request.scope)
    grants.require_read()
    query(request)
    runtime.catalog.require_followed()
    return Events(runtime, request.scope, grants)


ROUTES = [
    Route("/system", system, methods=["GET"]),
    Route("/system/events", events, methods=["GET"]),
]
