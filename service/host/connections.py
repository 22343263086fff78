"""One HTTP connection: one answer for each request, and bounds of its size and its time.

uvicorn's own connection does not bound the size of a request's head, or the time that it takes. It
keeps a connection that sends nothing, queues any number of requests, and waits for ever for a
client that does not read. The app handles bodies and their deadlines.

Where a request ends is never in doubt: its body is read to the end, or the connection is closed.
 - A wish to change the protocol (`Upgrade`) is ignored (RFC 9110, 7.8). The parser would stop there
   and take the body for the new protocol's. So it is given the same head once more, without this
   header.
 - A head that others could read in another way is refused (`http/heads.py`). Trailers after a
   chunked body add nothing to the head.
 - If an answer comes before the client was asked for its body (`Expect`), the connection is closed:
   the client may still send the body, or leave it out.
 - A client that sends nothing more (half-closed) gets its answers before the connection closes.
 - A client that is still sending when its connection is closed gets the answer that says why. Its
   data is read for a moment: closing with unread data would take the answer back.
"""

from __future__ import annotations

import heapq
import resource
import socket
import time
from asyncio import BaseTransport, TimerHandle
from http import HTTPStatus
from typing import Any, cast

import httptools
import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.host.transports import Joined
from service.http import heads
from service.http.answers import SEND_WHOLE
from service.http.loop_delay import ARRIVED, LOOP
from service.http.uploads import JOINED_AT_ONCE, WHOLE

MAX_HEAD_BYTES = 32 * 1024  # of request line and headers; also of what follows a chunked body
MAX_HEADERS = 100
MAX_AHEAD = 16  # requests sent before the one in front of them is answered
MAX_CONNECTIONS = 4096  # beyond them, and beyond half of the files that may be open, ...
EVICTED_AT_ONCE = 64  # ... this many of those that have waited longest are closed
HEAD_S = 10.0  # from the connection's start, or the last answer, to the next complete head
READ_S = 30.0  # in which a client has to read what the transport's buffer holds
LOOK_S = 0.1  # between looks at whether a client that has ended its sending is still there
LINGER_S, LINGER_BYTES = 5.0, 256 * 1024  # of what comes after a last answer
PIECE = 64 * 1024  # bytes that are parsed before the bounds are looked at again


def install() -> None:
    """Makes it uvicorn's default protocol; call it before a server is configured."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__qualname__}"


class _Refused(Exception):
    """Ends the parsing; what is answered is noted in the connection."""


class Connection(HttpToolsProtocol):
    """From accepting to closing. All of it runs on the event loop's thread."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._chunks: list[bytes] = []  # of a body, since it was last handed on
        # What the parser calls, for each chunk: a client may send them tiny.
        self.on_body = self._chunks.append  # pyright: ignore[reportAttributeAccessIssue]
        super().__init__(*args, **options)
        self.ws_protocol_class = None  # nothing here speaks WebSocket; it has bounds of its own
        self.access_log = False  # the app has its own
        self._since = time.monotonic()  # when it began to wait for a head
        self._waiting: TimerHandle | None = None  # runs out if the head does not come
        self._unread: TimerHandle | None = None  # runs out if the client does not read
        self._status = HTTPStatus.BAD_REQUEST  # what the next refusal says
        self._in_head = False
        self._first = True  # no request has begun yet
        self._fruitless = 0  # bytes since the last that ended a head or belonged to a body
        self._fruit = False
        self._ended = False  # the client sends nothing more
        self._looking: TimerHandle | None = None  # at whether it still waits for its answer
        self._persists = True  # what the connection does once the expected body has come
        self._running: RequestResponseCycle | None = None  # others wait in the pipeline

    # -- waiting

    def connection_made(self, transport: BaseTransport) -> None:  # type: ignore[override]
        joined = Joined(transport, self._lingers)
        super().connection_made(joined)  # type: ignore[arg-type]
        LOOP.watch(self.loop)
        self._wait()
        if len(self.connections) > _most_connections():
            self._evict()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None:  # uvicorn tells the request that was sent last
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        self._stop_waiting()
        self._stop_unread()
        if self._looking is not None:
            self._looking.cancel()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        cycle.scope[SEND_WHOLE] = self._send_whole  # type: ignore[literal-required]
        super()._start_asgi_task(cycle, app)

    def _send_whole(self, head: bytes, body: bytes) -> bool:
        """Answers the request that runs, as its `send` would with 200 and these header lines.

        This saves the event loop a tenth of a request. False if it has to wait for the client.
        """
        cycle = self._running
        assert cycle is not None and not cycle.response_started
        if self.flow.write_paused:
            return False
        if cycle.disconnected:
            return True
        cycle.response_started = cycle.response_complete = True
        lines = b"".join([b"%s: %s\r\n" % field for field in cycle.default_headers])
        close = b"" if cycle.keep_alive else b"connection: close\r\n"
        head = b"HTTP/1.1 200 OK\r\n%s%s%s\r\n" % (lines, head, close)
        cast(Joined, self.transport).write_whole(head, body)
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def on_response_complete(self) -> None:
        cast(Joined, self.transport).flush()  # of a HEAD request no body comes
        last = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if last and self._ended:
            self.transport.close()
        elif last:
            self._wait()

    def _wait(self) -> None:
        """Also ends a body that goes on after its request was answered."""
        if self._waiting is not None:
            self._stop_waiting()
        self._since = time.monotonic()
        self._waiting = self.loop.call_later(HEAD_S, self._out_of_time)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _out_of_time(self) -> None:
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.transport.abort()  # closing would wait until the client reads
        elif self._in_head:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def _evict(self) -> None:
        idle = [one for one in self.connections if isinstance(one, Connection) and one._waiting]
        for one in heapq.nsmallest(EVICTED_AT_ONCE, idle, key=lambda one: one._since):
            one.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_unread()

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    # -- the end

    def _lingers(self) -> bool:
        joined = cast(Joined, self.transport)
        sends = self._in_head or (self.cycle is not None and self.cycle.more_body)
        if joined.is_closing() or self._ended or self.scheme == "https" or not sends:
            return False
        self._stop_waiting()
        self._waiting = self.loop.call_later(LINGER_S, self._out_of_time)
        self._fruitless = 0
        self.flow.resume_reading()
        return True

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """True keeps the connection for the answers to what has come whole."""
        self._ended = True
        if (
            self.transport.is_closing()
            or self.cycle is None
            or self.cycle.response_complete
            or self.scheme == "https"
        ):
            return None  # nothing is due, or there is no half of a connection
        if self.pipeline:
            if self.cycle.more_body:  # it will not come; those before it have come whole
                self.pipeline.popleft()
        elif self.cycle.more_body:
            return None
        elif not self.cycle.response_started:
            # From a client that is gone altogether, this brings an error back.
            cast(Joined, self.transport).begin()
            self._look()
        return True

    def _look(self) -> None:
        found = cast(socket.socket | None, self.transport.get_extra_info("socket"))
        if found is not None and found.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self._looking = self.loop.call_later(LOOK_S, self._look)

    # -- parsing

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            self._fruitless += len(data)
            if self._fruitless > LINGER_BYTES:
                self.transport.abort()
            return
        whole = memoryview(data)
        try:
            for start in range(0, len(data), PIECE):
                piece = whole[start : start + PIECE]
                self._fruit = False
                self._fruitless += len(piece)
                self._parse(piece)
                if self._chunks:
                    self._hand_on()
                if self._fruit:
                    self._fruitless = 0
                elif self._fruitless > MAX_HEAD_BYTES:
                    self._status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                    raise _Refused
        except (httptools.HttpParserError, _Refused):
            if not self.transport.is_closing():
                self._refuse(self._status)

    def _parse(self, data: memoryview) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as stopped:
                head, self.parser = self._without_upgrade(), _parser(self)
                self.parser.feed_data(head)
                data = data[stopped.args[0] :]

    def _without_upgrade(self) -> bytes:
        """The head that was parsed last, but for the wish to change the protocol."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        fields = (b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade")
        return b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, b"".join(fields))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[ARRIVED] = LOOP.arrival(  # type: ignore[literal-required]
            self.transport, first=self._first
        )
        self._first = False
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it trails a body
            name, value = name.lower(), value.rstrip(b" \t")
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        # Only a large piece of data can hold a large head: the sum is seldom needed.
        if len(self.headers) > MAX_HEADERS or (
            self._fruitless > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES
        ):
            self._status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise _Refused
        version, method = self.parser.get_http_version(), self.parser.get_method()
        refused = heads.refusal(version, method, self.url, self.headers)
        if refused is not None:
            self._status = refused
            raise _Refused
        if self.parser.should_upgrade():
            return  # the same head comes again
        self._in_head, self._fruit = False, True
        self._stop_waiting()
        if len(self.pipeline) >= MAX_AHEAD:
            self._status = HTTPStatus.TOO_MANY_REQUESTS
            raise _Refused
        if version == "1.0":
            self.expect_100_continue = False  # it knows of no such answer
        super().on_headers_complete()
        if self.expect_100_continue:
            self._persists, self.cycle.keep_alive = self.cycle.keep_alive, False

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _hand_on(self) -> None:
        self._fruit = True
        super().on_body(b"".join(self._chunks))
        self._chunks.clear()

    def on_message_complete(self) -> None:
        if self._in_head:  # of a head that comes again: there is no message yet
            return
        if self._chunks:
            self._hand_on()
        super().on_message_complete()
        if len(self.cycle.body) <= JOINED_AT_ONCE:
            self.scope[WHOLE] = True  # type: ignore[literal-required]
        if self.expect_100_continue and not self.cycle.response_started:
            self.cycle.keep_alive = self._persists

    def _refuse(self, status: HTTPStatus) -> None:
        """Answers and closes; only closes where another answer is due first, or was given."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self._in_head or self.pipeline or self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # this is the answer to its request
            self.cycle.message_event.set()
        elif self.cycle is not None and self.cycle.more_body and not self._in_head:
            self.transport.close()
            return
        detail = f"{status.phrase}\n".encode()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (status, status.phrase.encode(), len(detail), detail)
        )
        self.transport.close()


def _parser(connection: Connection) -> httptools.HttpRequestParser:
    """As uvicorn makes it: what follows a last request is dropped with the connection."""
    made = httptools.HttpRequestParser(connection)
    made.set_dangerous_leniencies(lenient_data_after_close=True)
    return made


def _most_connections() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MAX_CONNECTIONS, files // 2)
