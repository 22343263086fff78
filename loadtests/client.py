"""A client that can offer ten times what a gateway can do from the same machine.

Requests are made beforehand; answers are looked at no further than these measurements need, and
must state their length.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

DRAIN_S = 15.0  # beyond the longest deadline that the gateway knows
LENGTH = b"content-length: "


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one request."""

    status: int  # 0 where the connection was lost or no answer came
    latency_s: float  # from when it was due to the end of the answer
    lag_s: float  # how much later than due it was sent
    retry_after: bool  # whether the answer says when to come back


class _Connection(asyncio.Protocol):
    """One request at a time; `done` is told how it ended and where the connection is free again."""

    def __init__(self, done: Callable[[_Connection], None]) -> None:
        self._done = done
        self._received = b""
        self._expected = 0
        self.status = 0
        self.retry_after = False
        self.busy = False
        self.due = 0.0
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are of no such class

    def send(self, request: bytes, due: float) -> None:
        self.busy, self.due, self.sent = True, due, time.perf_counter()
        self._received, self._expected, self.status = b"", 0, 0
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._expected:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._received[:end].lower()
            at = head.find(LENGTH)
            if at < 0:
                self.transport.abort()
                return
            self._expected = end + 4 + int(head[at + len(LENGTH) :].split(b"\r", 1)[0])
            self.retry_after = b"\r\nretry-after: " in head
        if len(self._received) >= self._expected:
            self.status = int(self._received[9:12])
            self.busy = False
            self._done(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self.status = 0
            self._done(self)


class Client:
    """Connections to one port of this machine, opened as they are needed and kept."""

    def __init__(self, port: int) -> None:
        """Use within one event loop, and close it there."""
        self._port = port
        self._free: list[_Connection] = []
        self._waiting: dict[_Connection, asyncio.Future[Reply]] = {}
        self._all: list[_Connection] = []

    async def ask(self, request: bytes, due: float) -> Reply:
        """Sends a whole request and waits for the answer; `due` is a time of perf_counter."""
        connection = await self._connection()
        answer = asyncio.get_running_loop().create_future()
        self._waiting[connection] = answer
        connection.send(request, due)
        return await answer

    async def _connection(self) -> _Connection:
        while self._free:
            connection = self._free.pop()
            if not connection.transport.is_closing():
                return connection
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(
            lambda: _Connection(self._done), "127.0.0.1", self._port
        )
        self._all.append(made)
        return made

    def _done(self, connection: _Connection) -> None:
        now = time.perf_counter()
        answer = self._waiting.pop(connection)
        lag_s = connection.sent - connection.due
        if not answer.done():
            answer.set_result(
                Reply(connection.status, now - connection.due, lag_s, connection.retry_after)
            )
        if connection.status:
            self._free.append(connection)

    def close(self) -> None:
        """Closes all connections."""
        for connection in self._all:
            connection.transport.abort()


def post(task: str, body: bytes, deadline_ms: int) -> bytes:
    """A whole request to classify one image."""
    head = (
        f"POST /classify/{task} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: image/png\r\n"
        f"munet-deadline-ms: {deadline_ms}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def closed_loop(
    client: Client, requests: Sequence[bytes], clients: int, seconds: float
) -> float:
    """Answers with status 200 per second, with a given number of requests always under way."""
    start = time.perf_counter()
    answered = 0

    async def one(turn: int) -> None:
        nonlocal answered
        while (now := time.perf_counter()) < start + seconds:
            reply = await client.ask(requests[turn % len(requests)], now)
            turn += clients
            answered += reply.status == 200 and time.perf_counter() < start + seconds
            if reply.status != 200:
                await asyncio.sleep(0.01)

    await asyncio.gather(*(one(turn) for turn in range(clients)))
    return answered / seconds


async def open_loop(client: Client, schedule: Sequence[tuple[float, bytes]]) -> list[Reply]:
    """Sends each request at its time (seconds from now) whether or not others are answered."""
    start = time.perf_counter()
    sent: list[asyncio.Task[Reply]] = []
    for after_s, request in schedule:
        due = start + after_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent.append(asyncio.create_task(client.ask(request, due)))
    if not sent:
        return []
    done, late = await asyncio.wait(sent, timeout=DRAIN_S)
    for task in late:
        task.cancel()
    return [task.result() for task in done] + [Reply(0, DRAIN_S, 0.0, False) for _ in late]
