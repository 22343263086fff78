"""Reads a stream of events of a gateway in this process, one event after the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from tests.service.in_process import Gateway

PATIENCE_S = 60.0


class Stream:
    """`GET /system/events`; used on the gateway's own loop."""

    def __init__(self, gateway: Gateway, headers: Mapping[str, str] | None = None) -> None:
        given = {"host": "localhost", **(headers or {})}
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/system/events",
            "raw_path": b"/system/events",
            "root_path": "",
            "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 80),
        }
        self._gateway = gateway
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._text = ""
        self.status = 0
        self.ended = False

    async def __aenter__(self) -> Stream:
        self._run = asyncio.create_task(
            self._gateway.app(self._scope, self._receive, self._sent.put)  # pyright: ignore
        )
        start = await self._next()
        self.status = start["status"]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        await asyncio.wait_for(self._run, PATIENCE_S)

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _next(self) -> dict[str, Any]:
        return await asyncio.wait_for(self._sent.get(), PATIENCE_S)

    async def event(self) -> tuple[str, Any]:
        """The next event's name and data; "" at the end."""
        while "\n\n" not in self._text:
            message = await self._next()
            self._text += message.get("body", b"").decode()
            if not message.get("more_body"):
                self.ended = True
                return "", None
        whole, _, self._text = self._text.partition("\n\n")
        if whole.startswith(":"):
            return await self.event()
        name, _, data = whole.removeprefix("event: ").partition("\ndata: ")
        return name, json.loads(data)

    async def until(self, name: str) -> Any:
        """The data of the next event of this name."""
        while True:
            found, data = await self.event()
            if found == name:
                return data
            assert found, f"the stream ended before an event {name}"
