"""Requests that go past an outer app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.host.direct import Direct


class Noted:
    """The outer app's middleware: notes the paths that it sees."""

    def __init__(self, app: ASGIApp, seen: list[str]) -> None:
        self.app = app
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope.get("path", scope["type"]))
        await self.app(scope, receive, send)


async def inside(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{request.url.path} {request.app.state.started}")


@asynccontextmanager
async def inner_lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.started = True
    yield
    app.state.started = False


@contextmanager
def running(app: Starlette) -> Iterator[asyncio.Runner]:
    """The app from its start to its end, by the messages of ASGI's `lifespan`."""
    with asyncio.Runner() as runner:
        to_app: asyncio.Queue[Any] = asyncio.Queue()
        from_app: asyncio.Queue[Any] = asyncio.Queue()

        async def start() -> asyncio.Task[None]:
            scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
            task = asyncio.create_task(app(scope, to_app.get, from_app.put))
            await to_app.put({"type": "lifespan.startup"})
            assert (await from_app.get())["type"] == "lifespan.startup.complete"
            return task

        async def stop(task: asyncio.Task[None]) -> None:
            await to_app.put({"type": "lifespan.shutdown"})
            await task

        task = runner.run(start())
        yield runner
        runner.run(stop(task))


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def outer(seen: list[str]) -> Iterator[Any]:
    """A client of an outer app that mounts an inner one, as BentoML does."""
    routes = [Route("/classify/{task}", inside, methods=["POST"]), Route("/tasks", inside)]
    inner = Starlette(routes=routes, lifespan=inner_lifespan)
    app = Starlette(
        routes=[Route("/outer", inside), Mount("/", inner)],
        middleware=[
            Middleware(Noted, seen=seen),
            Middleware(Direct, inner=inner),
        ],
        lifespan=lambda _: inner.router.lifespan_context(inner),
    )
    with running(app) as runner:

        def ask(method: str, path: str) -> httpx.Response:
            async def request() -> httpx.Response:
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(
                    transport=transport, base_url="http://localhost"
                ) as client:
                    return await client.request(method, path)

            return runner.run(request())

        seen.clear()
        yield ask


def test_requests_pass_the_middlewares_by(outer: Any, seen: list[str]) -> None:
    assert outer("POST", "/classify/one").text == "/classify/one True"
    assert outer("GET", "/tasks").text == "/tasks True"
    assert seen == []


def test_what_the_inner_app_refuses_is_not_tried_again(outer: Any, seen: list[str]) -> None:
    assert outer("GET", "/classify/one").status_code == 405
    assert outer("GET", "/v2/nothing").status_code == 404
    assert outer("GET", "/outer").status_code == 404
    assert seen == []
