"""One request, one answer: where a request ends is never in doubt, with any head."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from service.host.connections import Connection
from service.host.transports import BEGINNING
from tests.service.conftest import Served
from tests.service.host.running import echo, read
from tests.service.waiting import PATIENCE_S

INNER = b"GET /inner HTTP/1.1\r\nhost: x\r\n\r\n"  # a body that would do as a request
TOKENS = ("h2c", "websocket", "TLS/1.0", "foo", "h2c, foo", "HTTP/2.0", "")
CONNECTIONS = ("Upgrade", "upgrade, HTTP2-Settings", "keep-alive, UPGRADE", "Upgrade, close", "x")


class Wire(asyncio.Transport):
    """What a connection writes, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.written += b"".join(list_of_data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def write_eof(self) -> None:
        """What still comes is not of interest here."""
        self.closed = True

    def pause_reading(self) -> None:
        """Reading goes on: a test has said already what arrives."""

    resume_reading = pause_reading


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


class Counting(Connection):
    """Counts the requests that have begun."""

    begun = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.begun += 1


def talk(runner: asyncio.Runner, pieces: Sequence[bytes]) -> bytes:
    """What is answered to a client whose bytes arrive in these pieces."""
    return counted(runner, pieces)[0]


def counted(runner: asyncio.Runner, pieces: Sequence[bytes]) -> tuple[bytes, int]:
    """The same, and how many requests there were."""

    async def run() -> tuple[bytes, int]:
        config = uvicorn.Config(echo, log_config=None, lifespan="off", proxy_headers=False)
        config.load()
        state, wire = ServerState(), Wire()
        connection = Counting(config, state, {}, asyncio.get_running_loop())
        connection.connection_made(wire)
        for piece in pieces:
            if wire.closed:
                break
            connection.data_received(piece)
            for _ in range(5):
                await asyncio.sleep(0)
        while [one for one in state.tasks if not one.done()] and not wire.closed:
            if connection.cycle.more_body:
                break  # it waits for more than was sent
            await asyncio.sleep(0)
        connection.connection_lost(None)
        await asyncio.gather(*state.tasks)
        return wire.written, connection.begun

    return runner.run(run())


@dataclass(frozen=True)
class Asked:
    """A request, with a wish to change the protocol or without."""

    method: str
    path: str
    body: bytes
    chunked: bool
    wish: Sequence[bytes]  # header lines
    first: bool  # whether they stand before the others

    @property
    def sent(self) -> bytes:
        lines = [b"Host: x"]
        if self.chunked:
            lines.append(b"Transfer-Encoding: chunked")
        elif self.body:
            lines.append(b"Content-Length: %d" % len(self.body))
        lines = [*self.wish, *lines] if self.first else [*lines, *self.wish]
        head = b"\r\n".join([f"{self.method} {self.path} HTTP/1.1".encode(), *lines, b"", b""])
        return head + (self.chunks if self.chunked else self.body)

    @property
    def chunks(self) -> bytes:
        half = len(self.body) // 2
        parts = [part for part in (self.body[:half], self.body[half:]) if part]
        trailer = b"Upgrade: foo\r\nConnection: upgrade\r\nExpect: 100-continue\r\n"
        return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n" + trailer + b"\r\n"

    @property
    def answer(self) -> bytes:
        names = {line.split(b":")[0].lower() for line in self.wish} - {b"upgrade"}
        names |= {b"host"}
        if self.chunked:
            names |= {b"transfer-encoding"}
        elif self.body:
            names |= {b"content-length"}
        listed = b",".join(sorted(names))
        return b"<%s %s %s %s>" % (self.method.encode(), self.path.encode(), listed, self.body)


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    named = draw(st.sampled_from(["Upgrade", "upgrade", "UPGRADE"])).encode()
    wish = [named + b": " + draw(st.sampled_from(TOKENS)).encode()]
    wish += [b"Connection: " + draw(st.sampled_from(CONNECTIONS[:3])).encode()]
    return Asked(
        method=draw(st.sampled_from(["POST", "GET", "PUT", "OPTIONS", "DELETE"])),
        path=draw(st.sampled_from(["/classify/plain", "/v2/models/a/infer", "/"])),
        body=draw(st.sampled_from([b"", b"abc", INNER, INNER * 3, b"\r\n\r\n", bytes(3000)])),
        chunked=draw(st.booleans()),
        wish=draw(st.permutations(wish)),
        first=draw(st.booleans()),
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(asked(), min_size=1, max_size=3), st.data())
def test_a_wish_to_change_the_protocol_changes_nothing(
    runner: asyncio.Runner, requests: Sequence[Asked], data: st.DataObject
) -> None:
    """Each request has its answer, with its whole body, however the bytes arrive."""
    sent = b"".join(one.sent for one in requests)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sent) - 1), max_size=8)))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    answers = talk(runner, pieces)
    assert answers.count(BEGINNING) == len(requests)
    assert [part.split(b"\r\n\r\n", 1)[1] for part in answers.split(BEGINNING)[1:]] == [
        one.answer for one in requests
    ]


GOOD = (
    b"POST /early HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1;a\r\na\r\n0\r\nt:\r\n\r\n",
    b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
)
Edit = tuple[int, bytes]


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from(GOOD), min_size=1, max_size=4),
    st.lists(
        st.tuples(
            st.integers(0, 400), st.sampled_from([b"", b"\r", b"\n", b"z", b"0", b" ", b"\0"])
        ),
        max_size=3,
    ),
    st.lists(st.integers(0, 400), max_size=4),
)
def test_no_request_has_two_answers(
    runner: asyncio.Runner, requests: Sequence[bytes], edits: Sequence[Edit], cuts: Sequence[int]
) -> None:
    """With any fault, and whenever that is seen."""
    sent = b"".join(requests)
    for place, new in edits:
        sent = sent[:place] + new + sent[place + 1 :]
    places = sorted(min(cut, len(sent)) for cut in cuts)
    pieces = [sent[a:b] for a, b in zip([0, *places], [*places, len(sent)], strict=True)]
    answers, begun = counted(runner, [piece for piece in pieces if piece])
    statuses = [part[:3] for part in answers.split(BEGINNING)[1:]]
    assert len(statuses) <= max(begun, 1)
    assert set(statuses[:-1]) <= {b"200"}  # a refusal is the last


def test_nor_does_it_byte_by_byte(runner: asyncio.Runner) -> None:
    wish = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    request = Asked("POST", "/classify/plain", INNER, False, wish, first=False)
    sent = request.sent * 2
    for cut in range(1, len(sent)):
        answers = talk(runner, [sent[:cut], sent[cut:]])
        assert answers.count(request.answer) == answers.count(BEGINNING) == 2
    assert talk(runner, [bytes([byte]) for byte in sent]).count(request.answer) == 2


PATHS = ("/classify/plain", "/classify", "/v2/models/plain/infer", "/v2", "/metrics", "/", "/no")


@pytest.mark.parametrize("path", PATHS)
def test_a_real_server_answers_each_request_once(served: Served, path: str) -> None:
    """The body comes in a packet of its own, and is not taken for a request."""
    for token, connection in itertools.product(TOKENS, CONNECTIONS):
        check_answers(served, token, connection, path)


def check_answers(served: Served, token: str, connection: str, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nupgrade: {token}\r\nconnection: {connection}\r\n"
    with socket.create_connection(("127.0.0.1", served.server.port), PATIENCE_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(INNER))
        with contextlib.suppress(ConnectionError):  # it may have been answered and closed already
            client.sendall(INNER)
            client.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answers = read(client)
    assert answers.count(BEGINNING) == (1 if "close" in connection else 2)
    assert b"inner" not in answers  # which refusals would name


REFUSED = {
    "no host": (400, b"GET / HTTP/1.1\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n"),
    "two hosts in HTTP/1.0": (400, b"GET / HTTP/1.0\r\nhost: x\r\nhost: y\r\n"),
    "an empty host": (400, b"GET / HTTP/1.1\r\nhost:\r\n"),
    "a host with a path": (400, b"GET / HTTP/1.1\r\nhost: x/y\r\n"),
    "a host with a user": (400, b"GET / HTTP/1.1\r\nhost: u@x\r\n"),
    "two hosts in one": (400, b"GET / HTTP/1.1\r\nhost: x, y z\r\n"),
    "no number of a port": (400, b"GET / HTTP/1.1\r\nhost: x:a\r\n"),
    "half an IPv6 address": (400, b"GET / HTTP/1.1\r\nhost: [::1\r\n"),
    "another host in the target": (400, b"GET http://y/ HTTP/1.1\r\nhost: x\r\n"),
    "a user in the target": (400, b"GET http://u@x/ HTTP/1.1\r\nhost: x\r\n"),
    "another scheme": (400, b"GET ftp://x/ HTTP/1.1\r\nhost: x\r\n"),
    "gzip, chunked": (501, b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n"),
    "two codings": (
        501,
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
    ),
    "identity": (501, b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: identity\r\n"),
    "chunked with a parameter": (
        501,
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked;q=1\r\n",
    ),
    "chunked in HTTP/1.0": (400, b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n"),
    "chunked twice": (
        400,
        b"POST / HTTP/1.1\r\nhost: x\r\n" + 2 * b"transfer-encoding: chunked\r\n",
    ),
    "a length twice": (
        400,
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\ncontent-length: 0\r\n",
    ),
    "two tokens": (
        400,
        b"GET / HTTP/1.1\r\nhost: x\r\n" + 2 * b"authorization: Bearer a\r\n",
    ),
    "a tunnel": (501, b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n"),
    "a tunnel to a path": (501, b"CONNECT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"),
    "HTTP/0.9": (505, b"GET / HTTP/0.9\r\n"),
    "HTTP/2": (505, b"GET / HTTP/2.0\r\nhost: x\r\n"),
    "bare line feeds": (400, b"GET / HTTP/1.1\nhost: x\n\n"),
    "a folded line": (400, b"GET / HTTP/1.1\r\nhost: x\r\n\tfolded\r\n"),
    "a blank before the colon": (400, b"GET / HTTP/1.1\r\nhost : x\r\n"),
    "a NUL": (400, b"GET / HTTP/1.1\r\nhost: x\r\na: b\0c\r\n"),
}


@pytest.mark.parametrize("wish", [b"", b"upgrade: h2c\r\nconnection: upgrade\r\n"])
@pytest.mark.parametrize("kind", REFUSED)
def test_heads_that_can_be_read_in_two_ways_are_refused(
    runner: asyncio.Runner, kind: str, wish: bytes
) -> None:
    status, head = REFUSED[kind]
    answer = talk(runner, [head + wish + b"\r\n0\r\n\r\n", INNER])
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(BEGINNING) == 1
    assert b"connection: close" in answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET /a HTTP/1.1\r\nhost: x:8080\r\n",
        b"GET /a HTTP/1.1\r\nhost: [::1]:3000\r\n",
        b"GET /a HTTP/1.0\r\n",
        b"GET /a HTTP/1.0\r\nhost: gateway_1.example\r\n",
        b"GET http://X:80/a HTTP/1.1\r\nhost: x:80\r\n",
    ],
)
def test_heads_that_name_one_host_are_answered(runner: asyncio.Runner, head: bytes) -> None:
    assert b"<GET /a " in talk(runner, [head + b"\r\n"])


def test_what_trails_a_body_adds_nothing_to_the_head(runner: asyncio.Runner) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = talk(runner, [head, b"1\r\na\r\n0\r\nauthorization: Bearer b\r\nhost: y\r\n\r\n"])
    assert answer.endswith(b"<POST / host,transfer-encoding a>")


def test_a_body_that_is_none_is_answered_once(runner: asyncio.Runner) -> None:
    """Also where the app answers without it."""
    head = b"POST /early HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = talk(runner, [head + b"z\r\n"])
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(BEGINNING) == 1
    answer = talk(runner, [head, b"z\r\n"])
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(BEGINNING) == 1


EXPECTING = b"POST %s HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"


def test_an_answer_before_the_expected_body_closes_the_connection(runner: asyncio.Runner) -> None:
    """The client may send it now, or leave it out: what comes next is nobody's request."""
    answer = talk(runner, [EXPECTING % b"/early", INNER])
    assert answer.count(BEGINNING) == 1
    assert b"connection: close" in answer


def test_an_answer_to_the_expected_body_does_not(runner: asyncio.Runner) -> None:
    answers = talk(runner, [EXPECTING % b"/", b"abc", INNER])
    assert answers.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert answers.count(BEGINNING) == 3
    assert b"connection: close" not in answers
    old = EXPECTING.replace(b"1.1", b"1.0") % b"/"
    assert b"100 Continue" not in talk(runner, [old + b"abc"])
