"""Counts each request to classify over HTTP, from its arrival to the last byte of its answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ClientGone, GatewayError
from service.http import problems
from service.http.loop_delay import ARRIVED
from service.request import KEY_HEADER, Request, Timings, Watch
from service.runtime import Runtime

logger = logging.getLogger(__name__)
KEY = KEY_HEADER.encode()
Respond = Callable[[HttpRequest, Runtime, Request], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True)
class Watched:
    """An ASGI app: counts the answer of `respond`, or its refusal, when it is sent."""

    protocol: str
    respond: Respond  # raises GatewayError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = HttpRequest(scope, receive)
        runtime: Runtime = scope["app"].state.runtime
        named = scope["path_params"]
        tasks = (named[next(iter(named))],) if named else ()  # a model's version comes second
        request = Request(self.protocol, tasks, Timings(scope.get(ARRIVED)))
        if runtime.catalog.rollouts.active:
            request.key = next((text for name, text in scope["headers"] if name == KEY), b"")
        with Watch(request, *runtime.counters):
            try:
                response = await self.respond(http, runtime, request)
            except GatewayError as error:
                request.refused(error)
                response = (
                    Response(status_code=error.status)  # nobody is left to read it
                    if isinstance(error, ClientGone)
                    else await problems.problem(http, error)
                )
            except Exception as error:
                logger.exception("event=request_crashed path=%r", scope["path"])
                request.refused(error)
                response = await problems.crash(http, error)
            await response(scope, receive, send)
