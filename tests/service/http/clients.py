"""Requests that are sent piece by piece, and work that keeps a decoding thread busy."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

from service.compute.batching import Ask
from tests.service.in_process import OCTETS, Gateway
from tests.service.waiting import PATIENCE_S


def hold(gateway: Gateway, until: threading.Event) -> None:
    """Keeps the decoding thread busy."""
    ask = Ask(["another"], [1.0], math.inf)
    gateway.app.state.runtime.decoders.submit(ask, lambda: not until.wait(PATIENCE_S))


class Client:
    """A request to classify that is sent piece by piece, and may leave."""

    def __init__(
        self,
        gateway: Gateway,
        path: str = "/classify/plain",
        query: bytes = b"",
        address: str = "127.0.0.1",
        **headers: str,
    ) -> None:
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.statuses: list[int] = []
        named = {"host": "localhost", **OCTETS, **headers}.items()
        scope = {"type": "http", "method": "POST", "path": path,
                 "headers": [(name.encode(), value.encode()) for name, value in named],
                 "query_string": query, "scheme": "http", "server": ("test", 80),
                 "client": (address, 1)}  # fmt: skip
        self.task = asyncio.ensure_future(gateway.app(scope, self.sent.get, self.receive))

    async def receive(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])

    def send(self, body: bytes, more: bool = False) -> None:
        self.sent.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self.sent.put_nowait({"type": "http.disconnect"})
