"""The page at `/` and its files, `GET /system`, and `/docs`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.http import compression
from service.http.paged import paged
from service.http.queries import query
from service.page.events import Events
from service.page.files import Files
from service.runtime import Runtime

HERE = Path(__file__).parent
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
PAGE_POLICY = (
    NOTHING + "script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "require-trusted-types-for 'script'"
)
# Swagger UI sets styles on its elements, and draws its icons from data.
DOCS_POLICY = (
    NOTHING + "script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'"
)
SWAGGER = "flask_swagger_ui"  # only its folder of files is used: it is never imported


def _swagger_folder() -> Path | None:
    """Where Swagger UI is installed; None where it is not."""
    found = find_spec(SWAGGER)
    return None if found is None or found.origin is None else Path(found.origin).parent / "dist"


PAGE_FILES = Files(
    HERE / "static",
    (
        *("index.html", "style.css", "icon.svg", "app.js", "dom.js", "system.js"),
        *("layout.js", "map.js", "tasks.js", "try.js"),
    ),
    PAGE_POLICY,
)
DOCS_PAGE = Files(HERE / "docs", ("index.html", "docs.js", "docs.css"), DOCS_POLICY)
DOCS_FILES = Files(_swagger_folder(), ("swagger-ui.css", "swagger-ui-bundle.js"), DOCS_POLICY)


def _runtime(request: Request) -> Runtime:
    return request.app.state.runtime


async def system(request: Request) -> Response:
    """GET /system"""
    system = _runtime(request).system
    known, encoding = request.headers.get("if-none-match", ""), compression.wanted(request)
    return await paged(request, lambda *asked: _answer(system.page(*asked), known, encoding))


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


def _sent(files: Files, name: str = "") -> Callable[[Request], Awaitable[Response]]:
    """A call that answers with one file, or with that of the name in the path."""

    async def sent(request: Request) -> Response:
        wanted = name or request.path_params["file"]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_runtime(request).parsers, files.answer, request, wanted)

    return sent


ROUTES = [
    Route("/", _sent(PAGE_FILES, "index.html"), methods=["GET"]),
    Route("/page/{file}", _sent(PAGE_FILES), methods=["GET"]),
    Route("/docs", _sent(DOCS_PAGE, "index.html"), methods=["GET"]),
    Route("/docs/page/{file}", _sent(DOCS_PAGE), methods=["GET"]),
    Route("/docs/swagger/{file}", _sent(DOCS_FILES), methods=["GET"]),
    Route("/system", system, methods=["GET"]),
    Route("/system/events", events, methods=["GET"]),
]
