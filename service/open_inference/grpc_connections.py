"""The connections of the gRPC port, within bounds; gRPC itself listens on a private socket.

gRPC's own listener drops new connections when there are too many. So silent connections would keep
out all others, also probes. This listener makes room instead: it closes the connections that have
been unused for the longest. It passes a connection on, byte for byte, when the client has sent
HTTP/2's preface.

Law: open connections, the files they take, and the bytes that wait on them are bounded in all. A
connection that sends nothing, or does not read what it is sent, is closed after a while. A new
connection is always accepted.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import resource
import shutil
import socket
import tempfile
import time
from asyncio import TimerHandle
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from service.open_inference.grpc_heads import Heads, TooManyFields

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, 3.4
MAX_CONNECTIONS = 1024  # each takes four files, and all together at most a quarter of those allowed
PREFACE_S = 10.0  # from the connection's start to the end of its preface
READ_S = 30.0  # in which a client has to read what it is sent
LAST_S, LOOK_S = 2.0, 0.01  # in which a client has to read what gRPC says when it ends
LONGEST_SOCKET_PATH = 80  # bytes; systems allow some 100


def most_connections() -> int:
    """How many are open at once."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MAX_CONNECTIONS, max(4, files // 16))


class _End(asyncio.Protocol):
    """One of the two sockets of a connection."""

    def __init__(self) -> None:
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def abort(self) -> None:
        """Closes it at once."""
        if self._transport is not None:
            self._transport.abort()

    def send(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def read(self, wanted: bool) -> None:
        """Goes on reading, or stops it."""
        if self._transport.is_closing():
            return
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()


class Connection(_End):
    """One client's end. All of it runs on the event loop's thread."""

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._core: _End | None = None  # once the preface is there
        self._early = bytearray()  # what came before that
        self._heads = Heads(len(PREFACE))
        self._timer: TimerHandle | None = None
        self.host: str | None = None  # the client's address
        self.number: int | None = None  # by which gRPC names it
        self.calls = 0  # that were admitted and have not ended
        self.used = time.monotonic()  # when it was opened, or an admitted call began or ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.host = peer[0] if peer else None
        self._timer = self._loop.call_later(PREFACE_S, self.abort)
        self._connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.closed(self)
        self._stop_timer()
        if self._core is not None:
            self._core.abort()

    def data_received(self, data: bytes) -> None:
        if self._core is not None:
            self._pass_on(self._core, data)
            return
        self._early += data
        if not PREFACE.startswith(self._early[: len(PREFACE)]):
            self.abort()
        elif len(self._early) >= len(PREFACE):
            self.read(False)
            self._connections.pass_on(self)

    def pause_writing(self) -> None:
        """What its client does not read is not read from gRPC either."""
        if self._core is not None:
            self._core.read(False)
        self._abort_unread()

    def resume_writing(self) -> None:
        self._stop_timer()
        if self._core is not None:
            self._core.read(True)

    def count_call(self, more: int) -> None:
        """An admitted call begins (1) or has ended (-1)."""
        self.calls += more
        self.used = time.monotonic()

    def joined(self, core: _End) -> None:
        """gRPC's end is there."""
        self._stop_timer()
        self._core = core
        self._pass_on(core, bytes(self._early))
        self._early.clear()
        self.read(True)

    def _pass_on(self, core: _End, data: bytes) -> None:
        try:
            core.send(self._heads.passed(data))
        except TooManyFields:
            self.abort()

    def end(self) -> None:
        """gRPC has closed its end: closes this one when its client has read the rest."""
        if self._transport.get_write_buffer_size():
            self._abort_unread()
        self._transport.close()

    def _abort_unread(self) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(READ_S, self.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Core(_End):
    """gRPC's end of a connection."""

    def __init__(self, client: Connection, end: socket.socket) -> None:
        super().__init__()
        self._client = client
        self._end = end.dup()

    def connection_lost(self, exc: Exception | None) -> None:
        """The last bytes of gRPC still go out.

        A transport that could not write, because gRPC has closed, does not read what is left.
        """
        with self._end, suppress(OSError):
            while exc is not None and (data := self._end.recv(1 << 16)):
                self._client.send(data)
        self._client.end()

    def data_received(self, data: bytes) -> None:
        self._client.send(data)

    def pause_writing(self) -> None:
        """What gRPC does not read is not read from its client either."""
        self._client.read(False)

    def resume_writing(self) -> None:
        self._client.read(True)


class Connections:
    """All of one gateway's; for the event loop's thread."""

    def __init__(self) -> None:
        """Makes a folder for gRPC's socket, which only this user may enter."""
        self._folder = Path(tempfile.mkdtemp(prefix="munet-grpc-", dir=_short_folder()))
        self._open: set[Connection] = set()
        self._numbers = itertools.count()
        self._by_number: dict[int, Connection] = {}
        self._joining: set[asyncio.Task[None]] = set()
        self._most = most_connections()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """Where gRPC listens."""
        return f"unix:{self._folder / 'core'}"

    async def listen(self, listener: socket.socket) -> None:
        """Accepts from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), sock=listener, backlog=self._most
        )

    def stop_listening(self) -> None:
        """Accepts no more; open connections stay open."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Closes everything after the last bytes of gRPC are sent, if that is soon."""
        self.stop_listening()
        for connection in tuple(self._open):
            if connection.number is None:
                connection.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                while self._open:
                    await asyncio.sleep(LOOK_S)
        for connection in tuple(self._open):
            connection.abort()
        shutil.rmtree(self._folder, ignore_errors=True)

    def of(self, peer: str) -> Connection | None:
        """The connection that gRPC calls by this name; None if it has gone."""
        kind, _, address = unquote(peer).partition(":")
        number = address.rpartition("/")[2]
        return self._by_number.get(int(number)) if kind == "unix" and number.isdecimal() else None

    def opened(self, connection: Connection) -> None:
        """Closes others where there are too many; those without calls first."""
        self._open.add(connection)
        if len(self._open) > self._most:
            for one in heapq.nsmallest(max(1, self._most // 16), self._open, key=_use):
                one.abort()

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection.number is not None:
            self._by_number.pop(connection.number, None)

    def pass_on(self, connection: Connection) -> None:
        """Joins it with gRPC's socket."""
        task = asyncio.get_running_loop().create_task(self._join(connection))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, connection: Connection) -> None:
        number = next(self._numbers)
        end = socket.socket(socket.AF_UNIX)
        end.setblocking(False)
        name = str(self._folder / str(number))  # by which gRPC tells us whose a call is
        try:
            end.bind(name)
            try:
                end.connect(str(self._folder / "core"))
            finally:
                os.unlink(name)
            loop = asyncio.get_running_loop()
            _, core = await loop.create_unix_connection(lambda: _Core(connection, end), sock=end)
        except OSError:  # gRPC is stopping
            end.close()
            connection.abort()
            return
        if connection not in self._open:  # its client has gone meanwhile
            core.abort()
            return
        self._by_number[number], connection.number = connection, number
        connection.joined(core)


def _use(connection: Connection) -> tuple[bool, float]:
    return connection.calls > 0, connection.used


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= LONGEST_SOCKET_PATH - 30 else "/tmp"
