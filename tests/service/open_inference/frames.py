"""A client of HTTP/2 that sends frames as it is told, also such as no client would."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from tests.service.waiting import PATIENCE_S

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0,
    1,
    3,
    4,
    6,
    7,
    8,
    9,
)
END_STREAM = ACK = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4
WINDOW = 65535
PATIENCE = 20  # times that nothing may have come


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    size = len(payload).to_bytes(3, "big")
    return size + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def setting(name: int, value: int) -> bytes:
    return struct.pack(">HI", name, value)


def literal(name: bytes, value: bytes) -> bytes:
    """A header of HPACK, neither indexed nor compressed."""
    return b"\0" + _text(name) + _text(value)


def _text(data: bytes) -> bytes:
    if len(data) < 127:
        return bytes([len(data)]) + data
    left, size = len(data) - 127, bytearray([127])
    while left >= 128:
        size.append(left % 128 | 128)
        left //= 128
    return bytes([*size, left]) + data


def head(path: str | bytes, **more: str) -> bytes:
    """The headers of a call; `_` in their names is `-`."""
    path = path.encode() if isinstance(path, str) else path
    fields = {"content-type": "application/grpc", "te": "trailers"}
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(
        [
            literal(b":method", b"POST"),
            literal(b":scheme", b"http"),
            literal(b":path", path),
            literal(b":authority", b"gateway"),
            *(literal(name.encode(), value.encode()) for name, value in fields.items()),
        ]
    )


def message(data: bytes, size: int | None = None, *, compressed: bool = False) -> bytes:
    """A message of gRPC, which may announce another size."""
    return struct.pack(">?I", compressed, len(data) if size is None else size) + data


class Raw:
    """A connection that keeps to the windows of HTTP/2 where asked to, and counts what comes."""

    def __init__(self, port: int, settings: bytes = b"", *, greet: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self.came: Counter[int] = Counter()  # frames, by kind
        self.ended: dict[int, bool] = {}  # streams that have ended
        self.closed = False
        self._stream = -1
        self._unread = b""
        self._initial = self._window = WINDOW
        self._windows: dict[int, int] = {}
        if greet:
            self.send(PREFACE + frame(SETTINGS, payload=settings))

    def __enter__(self) -> Raw:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """As it is; a server that has closed ends it."""
        try:
            self.socket.sendall(data)
        except OSError:
            self.closed = True

    def call(self, path: str | bytes, data: bytes = b"", *, end: bool = False, **more: str) -> int:
        """Opens a stream; `data` should fit into the first window."""
        self._stream += 2
        self._windows[self._stream] = self._initial - len(data)
        self._window -= len(data)
        parts = frame(HEADERS, END_HEADERS, self._stream, head(path, **more))
        if data or end:
            parts += frame(DATA, END_STREAM if end else 0, self._stream, data)
        self.send(parts)
        return self._stream

    def pour(self, stream: int, data: bytes) -> int:
        """Sends what the windows allow now; bytes sent."""
        sent = 0
        while not self.closed:
            room = min(16384, self._window, self._windows[stream], len(data) - sent)
            if room <= 0:
                break
            self.send(frame(DATA, 0, stream, data[sent : sent + room]))
            self._window -= room
            self._windows[stream] -= room
            sent += room
        return sent

    def read(self, seconds: float) -> None:
        """Takes what comes until nothing does for so long."""
        self.socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while data := self.socket.recv(1 << 16):
                self._unread += data
                self._take()
            self.closed = True
        self.socket.settimeout(PATIENCE_S)

    def _take(self) -> None:
        while len(self._unread) >= 9:
            size = int.from_bytes(self._unread[:3], "big")
            if len(self._unread) < 9 + size:
                return
            kind, flags = self._unread[3], self._unread[4]
            stream = int.from_bytes(self._unread[5:9], "big")
            payload, self._unread = self._unread[9 : 9 + size], self._unread[9 + size :]
            self.came[kind] += 1
            self._note(kind, flags, stream, payload)

    def _note(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == WINDOW_UPDATE:
            self._windows[stream] = self._windows.get(stream, 0) + int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            self._settle(payload)
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self.ended[stream] = True

    def _settle(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            name, value = struct.unpack(">HI", payload[at : at + 6])
            if name == INITIAL_WINDOW_SIZE:
                for stream in self._windows:
                    self._windows[stream] += value - self._initial
                self._initial = value
        self.send(frame(SETTINGS, ACK))


def pour_all(clients: Sequence[Raw], streams: Sequence[Sequence[int]], data: bytes) -> int:
    """Sends it on all streams of each client, until no window opens any more; bytes sent."""
    sent = {
        (client, stream): 0 for client, own in zip(clients, streams, strict=True) for stream in own
    }
    patience = PATIENCE
    while patience:
        before = sum(sent.values())
        for client, stream in sent:
            sent[client, stream] += client.pour(stream, data[sent[client, stream] :])
        if sum(sent.values()) == len(sent) * len(data):
            break
        for client in clients:
            client.read(0.01)
        patience = PATIENCE if sum(sent.values()) > before else patience - 1
    return sum(sent.values())
