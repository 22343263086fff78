"""The gateway as a Starlette app; runs in BentoML, under uvicorn, or in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from service import classify_http, listing, problems
from service.errors import GatewayError
from service.metrics import CONTENT_TYPE
from service.runtime import Runtime
from service.settings import Settings


def create_app(settings: Settings | None = None) -> Starlette:
    """The app; its parts are made when it starts, from the environment if no settings are given."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        runtime = Runtime(settings or Settings.from_environment())
        await asyncio.to_thread(runtime.start)
        app.state.runtime = runtime
        yield
        await asyncio.to_thread(runtime.stop)

    return Starlette(
        lifespan=lifespan,
        routes=[
            *classify_http.ROUTES,
            Route("/tasks", tasks, methods=["GET"]),
            Route("/tasks/{task:path}", task, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/livez", live, methods=["GET"]),
            Route("/healthz", live, methods=["GET"]),
            Route("/readyz", ready, methods=["GET"]),
        ],
        exception_handlers={
            GatewayError: problems.problem,
            HTTPException: problems.no_route,
            Exception: problems.crash,
        },  # pyright: ignore[reportArgumentType]
    )


def _runtime(request: Request) -> Runtime:
    return request.app.state.runtime


async def tasks(request: Request) -> Response:
    """GET /tasks"""
    entries = _runtime(request).catalog.entries()
    return JSONResponse(await asyncio.to_thread(listing.list_tasks, entries))


async def task(request: Request) -> Response:
    """GET /tasks/{task}"""
    runtime = _runtime(request)
    name = request.path_params["task"]
    await runtime.catalog.require(name)
    entries = runtime.catalog.entries()
    if name not in entries:  # removed since
        raise runtime.catalog.unknown(name)
    content = await asyncio.to_thread(listing.describe_task, runtime.store, name, entries)
    return JSONResponse(content)


async def metrics(request: Request) -> Response:
    """GET /metrics"""
    text = await asyncio.to_thread(_runtime(request).metrics.exposition)
    return Response(text, headers={"content-type": CONTENT_TYPE})


async def live(request: Request) -> Response:
    """GET /livez, /healthz"""
    return _health(_runtime(request).alive)


async def ready(request: Request) -> Response:
    """GET /readyz"""
    return _health(_runtime(request).ready)


def _health(good: bool) -> Response:
    return PlainTextResponse("\n", 200 if good else 503)
