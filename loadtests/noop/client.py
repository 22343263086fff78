"""A client that costs little: keep-alive connections in one thread, requests made beforehand.

It has no parser but looks for the length that an answer states, so it is quicker than the servers
that it measures; chunked answers are not understood.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtests.errors import GatewayError

TIMEOUT_S = 10.0
RECEIVE_BYTES = 65_536
LENGTH = b"content-length: "


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back over some time."""

    wall_s: float
    latencies_s: list[float]
    heads: list[bytes]  # status line and headers, in the order of the latencies

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.wall_s


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    sent: float = 0.0
    received: bytes = b""

    def send(self, request: bytes) -> None:
        self.sent = time.perf_counter()
        self.socket.sendall(request)


@dataclass(slots=True)
class _Connections:
    poll: select.epoll = field(default_factory=select.epoll)
    by_number: dict[int, _Connection] = field(default_factory=dict)

    def open(self, port: int) -> None:
        made = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.poll.register(made, select.EPOLLIN)
        self.by_number[made.fileno()] = _Connection(made)

    def close(self) -> None:
        self.poll.close()
        for connection in self.by_number.values():
            connection.socket.close()


def post(path: str, body: bytes, content_type: str) -> bytes:
    """A whole HTTP/1.1 request."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {content_type}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def load(port: int, request: bytes, *, connections: int, seconds: float) -> Answers:
    """Sends the request over each connection again as soon as its answer is there.

    Raises GatewayError for an answer that is not 200, cut off or late.
    """
    opened = _Connections()
    try:
        for _ in range(connections):
            opened.open(port)
        return _load(opened, request, seconds)
    except OSError as error:
        raise GatewayError(f"asking 127.0.0.1:{port}: expected an answer, found {error}") from None
    finally:
        opened.close()


def _load(opened: _Connections, request: bytes, seconds: float) -> Answers:
    latencies, heads = [], []
    started = time.perf_counter()
    for connection in opened.by_number.values():
        connection.send(request)
    running = len(opened.by_number)
    while running:
        events = opened.poll.poll(TIMEOUT_S)
        if not events:
            raise GatewayError(f"expected an answer within {TIMEOUT_S:g} s, found none")
        for number, _ in events:
            connection = opened.by_number[number]
            head = _receive(connection)
            if head is None:
                continue
            now = time.perf_counter()
            latencies.append(now - connection.sent)
            heads.append(head)
            if now - started < seconds:
                connection.send(request)
            else:
                running -= 1
    return Answers(time.perf_counter() - started, latencies, heads)


def _receive(connection: _Connection) -> bytes | None:
    """The answer's head once all of it is there."""
    data = connection.socket.recv(RECEIVE_BYTES)
    if not data:
        raise GatewayError("expected an answer, found the connection closed")
    received = connection.received = connection.received + data
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    at = received.lower().find(LENGTH, 0, end)
    if at < 0 or not received.startswith(b"HTTP/1.1 200 "):
        raise GatewayError(f"expected status 200 and a length, found {received[:500]!r}")
    at += len(LENGTH)
    stated = int(received[at : received.find(b"\r", at)])
    if len(received) < end + 4 + stated:
        return None
    connection.received = b""
    return received[:end]


def header(head: bytes, name: str) -> str:
    """The value of one header of an answer; "" where it has none."""
    for line in head.decode("latin-1").split("\r\n")[1:]:
        found, _, value = line.partition(":")
        if found.lower() == name:
            return value.strip()
    return ""


def milliseconds(timing: str) -> Mapping[str, float]:
    """The stages of a Server-Timing header."""
    parts = (part.partition(";dur=") for part in timing.split(", ") if part)
    return {stage: float(value) for stage, _, value in parts}
