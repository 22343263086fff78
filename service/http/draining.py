"""Before the gateway ends, its clients are asked to take their next request elsewhere."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Draining:
    """Every answer of a gateway that drains says `Connection: close`.

    So no client sends a request on a connection that is just ending: the client could not tell
    whether the request was begun.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["app"].state.runtime.draining:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self._app(scope, receive, marked if scope["type"] == "http" else send)
