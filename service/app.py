"""The gateway as a Starlette app; runs in BentoML, under uvicorn, or in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from service.access import Grants
from service.errors import GatewayError
from service.http import classify, compression, embed, listing, problems
from service.http.browsers import Browsers
from service.http.draining import Draining
from service.http.late_requests import Shedding
from service.http.openapi import openapi
from service.http.paged import paged
from service.http.queries import query
from service.http.short_way import ShortWay
from service.metrics import openmetrics
from service.metrics.instruments import CONTENT_TYPE, OPENMETRICS_TYPE
from service.open_inference import rest
from service.page import routes as pages
from service.runtime import Runtime
from service.settings import Settings
from service.tasks.entry import Entry
from service.telemetry import admin
from service.telemetry.exchanges import Exchanges
from service.telemetry.selection import of_tasks
from service.telemetry.workers import Worker


def create_app(settings: Settings | None = None, worker: Worker | None = None) -> Starlette:
    """The app; its parts are made when it starts, from the environment if no settings are given.

    `worker` says which of several processes this is.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        runtime = Runtime(settings or Settings.from_environment(), worker)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(runtime.watcher, runtime.start)
        app.state.runtime = runtime
        try:
            async with _grpc(runtime):
                yield
        finally:
            await loop.run_in_executor(runtime.watcher, runtime.stop)

    return ShortWay(
        lifespan=lifespan,
        middleware=[Middleware(kind) for kind in (Exchanges, Draining, Browsers, Shedding)],
        routes=[
            *classify.ROUTES,
            *embed.ROUTES,
            *rest.ROUTES,
            *admin.ROUTES,
            *pages.ROUTES,
            Route("/openapi.json", openapi, methods=["GET"]),
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


@asynccontextmanager
async def _grpc(runtime: Runtime) -> AsyncIterator[None]:
    """The server on MUNET_GRPC_PORT, if that is set."""
    if runtime.settings.grpc_port:
        from service.open_inference import grpc_server  # 13 MB, which most do not need

        async with grpc_server.serving(runtime):
            yield
    else:
        yield


def _runtime(request: Request) -> Runtime:
    return request.app.state.runtime


async def tasks(request: Request) -> Response:
    """GET /tasks"""
    sharing = _runtime(request).sharing

    def made(entries: Mapping[str, Entry], grants: Grants, part: listing.Page) -> Response:
        return JSONResponse(listing.list_tasks(entries, grants, part, sharing))

    return await paged(request, made)


async def task(request: Request) -> Response:
    """GET /tasks/{task}"""
    runtime = _runtime(request)
    name = request.path_params["task"]
    grants = runtime.access.of(request.scope)
    grants.require_read()
    query(request)
    async with runtime.in_time():
        await runtime.catalog.require(name, grants, runtime.facts.ask)
        entries = runtime.catalog.entries()
        if name not in entries:  # removed since
            raise await runtime.catalog.unknown(name, grants)
        known = listing.Known(entries, grants, runtime.sharing)
        numbers = runtime.catalog.rollouts.numbers(name)
        return await runtime.facts.ask(
            lambda: JSONResponse(listing.describe_task(runtime.store, name, known, numbers))
        )


async def metrics(request: Request) -> Response:
    """GET /metrics: for everybody; private tasks are named to admins only. Those who accept it get
    OpenMetrics, with exemplars.

    Everybody who asks while a page is made gets that page. With `?task=`, once or more often, the
    series of other tasks are left out.
    """
    runtime = _runtime(request)
    tasks = frozenset(request.query_params.getlist("task"))
    encoding = compression.wanted(request)
    wants_openmetrics = openmetrics.is_wanted(request.headers.get("accept", ""))
    page = runtime.pages[runtime.access.is_admin(request.scope), wants_openmetrics]
    async with runtime.in_time():
        text = await page.ask()

        def body() -> bytes:
            chosen = of_tasks(text, tasks) if tasks else text
            return compression.deflate(chosen, encoding) if encoding else chosen

        if tasks or encoding:  # either takes milliseconds of a large page
            text = await asyncio.get_running_loop().run_in_executor(runtime.parsers, body)
    kind = OPENMETRICS_TYPE if wants_openmetrics else CONTENT_TYPE
    headers = {"content-type": kind, "vary": "accept, accept-encoding"}
    return Response(text, headers=headers | ({"content-encoding": encoding} if encoding else {}))


async def live(request: Request) -> Response:
    """GET /livez, /healthz"""
    return _health(_runtime(request).alive)


async def ready(request: Request) -> Response:
    """GET /readyz"""
    return _health(_runtime(request).ready)


def _health(good: bool) -> Response:
    return PlainTextResponse("\n", 200 if good else 503)
