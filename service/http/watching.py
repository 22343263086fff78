"""Around each request to classify over HTTP: from its arrival to the last byte of its answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import ClientGone, GatewayError
from service.http import problems
from service.http.loop_delay import ARRIVED
from service.runtime import Runtime
from service.telemetry.requests import Seen, watched
from service.timings import Timings

logger = logging.getLogger(__name__)
Respond = Callable[[Request, Runtime, Seen], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Watched:
    """An ASGI app: what `respond` answers is counted once it is sent, and so is a refusal."""

    protocol: str
    respond: Respond  # raises GatewayError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        runtime: Runtime = request.app.state.runtime
        named = tuple(request.path_params.values())[:1]  # a model's version comes second
        seen = Seen(self.protocol, named, Timings(scope.get(ARRIVED)))
        with watched(runtime.metrics, seen, runtime.tally.count):
            try:
                response = await self.respond(request, runtime, seen)
            except GatewayError as error:
                seen.refused(error)
                response = (
                    Response(status_code=error.status)  # nobody is left to read it
                    if isinstance(error, ClientGone)
                    else await problems.problem(request, error)
                )
            except Exception as error:
                logger.exception("event=request_crashed path=%r", scope["path"])
                seen.refused(error)
                response = await problems.crash(request, error)
            await response(scope, receive, send)
