"""Before the gateway ends, its clients are asked to take their next request elsewhere."""

from __future__ import annotations

import contextlib
import os
import socket

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Draining:
    """Every answer of a gateway that drains says `Connection: close`.

    So no client sends on a connection that ends just then, which it could not tell from a request
    that was begun.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["app"].state.runtime.draining:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self._app(scope, receive, marked if scope["type"] == "http" else send)


def stop_listening() -> None:
    """Shuts every listening socket of this process, for all that hold it; for an only worker.

    BentoML's main process does: what still came in would hang there until it ends, and be reset.
    """
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # no socket, or closed since
            found = socket.socket(fileno=int(name))
            try:
                listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if listens and found.family != socket.AF_UNIX:  # where workers tell their metrics
                    found.shutdown(socket.SHUT_RDWR)
            finally:
                found.detach()  # it belongs to others
