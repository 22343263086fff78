"""Connections: floods, slow clients and abuse of HTTP end in an answer or a closed connection."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from service.host import connections
from service.host.connections import MAX_AHEAD, MAX_HEAD_BYTES, MAX_HEADERS
from tests.service.host.running import BIG, Running, read
from tests.service.waiting import PATIENCE_S, eventually


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEAD_S", 1.0)
        patch.setattr(connections, "READ_S", 1.0)
        made = Running()
        made.thread.start()
        eventually(lambda: made.server.started)
        yield made
        made.server.should_exit = True
        made.thread.join()


GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
CLOSE = b"connection: close\r\n\r\n"


def test_requests_within_the_bounds_are_answered(running: Running) -> None:
    assert running.talk(GET, CLOSE).endswith(b"\r\n\r\n0")
    headers = b"".join(b"x-%d: y\r\n" % number for number in range(MAX_HEADERS - 2))
    assert running.talk(GET, headers, CLOSE).startswith(b"HTTP/1.1 200 ")
    wide = b"x: " + b"y" * (MAX_HEAD_BYTES - 100) + b"\r\n"
    assert running.talk(GET, wide, CLOSE).startswith(b"HTTP/1.1 200 ")
    body = b"".join(b"1;%s\r\nx\r\n" % (b"e" * 900) for _ in range(100)) + b"0\r\nt: u\r\n\r\n"
    chunked = b"transfer-encoding: chunked\r\n"
    assert running.talk(POST, chunked, CLOSE, body).endswith(b"\r\n\r\n100")
    large = b"content-length: 3000000\r\n"
    assert running.talk(POST, large, CLOSE, bytes(3_000_000)).endswith(b"\r\n\r\n3000000")


CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
FLOODS: dict[str, tuple[bytes, bytes]] = {
    "many headers": (GET, b"x: y\r\n" * 1000),
    "one long header": (GET + b"x: ", b"y" * 10_000),
    "one long name": (GET, b"y" * 10_000),
    "a long request line": (b"GET /", b"y" * 10_000),
    "a long trailer": (CHUNKED + b"1\r\nx\r\n0\r\nt: ", b"y" * 10_000),
    "many trailers": (CHUNKED + b"0\r\n", b"t: u\r\n" * 1000),
    "a long chunk extension": (CHUNKED + b"1;e=", b"y" * 10_000),
}


def test_head_and_body_of_an_answer_arrive_at_once_and_heads_without_a_body(
    running: Running,
) -> None:
    with running.connect() as client:
        for _ in range(20):
            client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
            assert client.recv(65536).endswith(b"\r\n\r\n3")
        client.sendall(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(65536).endswith(b"content-length: 1\r\n\r\n")
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n")
        client.sendall(b"content-length: 3\r\n\r\n")
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert client.recv(65536).endswith(b"\r\n\r\n3")
    answer = running.talk(b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("kind", FLOODS)
def test_floods_of_heads_are_ended(running: Running, kind: str) -> None:
    start, more = FLOODS[kind]
    with running.connect() as client:
        client.sendall(start)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 10 * 2**20:
                client.sendall(more)
                sent += len(more)
        assert sent < 10 * 2**20
    eventually(lambda: running.open == 0)


def test_a_flood_is_told_what_is_too_large(running: Running) -> None:
    for more in (b"x: y\r\n" * MAX_HEADERS, b"x: " + b"y" * MAX_HEAD_BYTES + b"\r\n"):
        answer = running.talk(GET + more + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"connection: close" in answer


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        POST + b"content-length: -3\r\n\r\n",
        POST + b"content-length: 3,3\r\n\r\nabc",
        POST + b"content-length: 99999999999999999999999\r\n\r\n",
        POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"z\r\n",
        CHUNKED + b"fffffffffffffffffffffff\r\n",
        CHUNKED + b"-1\r\nx\r\n0\r\n\r\n",
        CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n",
        CHUNKED + b"1\nx\n0\n\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nx\0y: z\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(5000),
    ],
)
def test_what_is_no_clear_request_is_refused_and_cut(running: Running, request_: bytes) -> None:
    """Two readings of where a request ends would let one through inside of another."""
    answer = running.talk(request_ + b"\r\n" + GET + b"\r\n")
    assert answer[9:12] in (b"400", b"408", b"501", b"505")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer


def test_a_head_that_does_not_come_is_cut(running: Running) -> None:
    assert running.talk() == b""  # nothing at all
    assert running.talk(GET).startswith(b"HTTP/1.1 408 ")
    with running.connect() as client:  # a byte now and then is no help
        over = time.monotonic() + PATIENCE_S
        with contextlib.suppress(ConnectionError):
            for byte in GET + b"x: y\r\n" * 1000:
                assert time.monotonic() < over
                client.send(bytes([byte]))
                time.sleep(0.05)
    eventually(lambda: running.open == 0)


def test_a_connection_that_is_kept_is_cut_as_well(running: Running) -> None:
    answer = running.talk(GET + b"\r\n", GET[:20])
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 408 ") == 1
    assert running.talk(GET + b"\r\n").count(b"HTTP/1.1 ") == 1


def test_a_body_that_nobody_reads_is_cut(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    early = b"POST /early HTTP/1.1\r\nhost: x\r\n"
    with running.connect() as client:
        client.sendall(early + b"transfer-encoding: chunked\r\n\r\n")
        with pytest.raises(ConnectionError):
            over = time.monotonic() + PATIENCE_S
            while time.monotonic() < over:
                client.sendall(b"3e8\r\n" + bytes(1000) + b"\r\n")
    # One that comes to its end in time costs nobody the connection.
    monkeypatch.setattr(connections, "HEAD_S", PATIENCE_S)
    whole = early + b"content-length: 1000000\r\n\r\n" + bytes(1_000_000)
    assert running.talk(whole, GET, CLOSE).count(b"HTTP/1.1 200 ") == 2


def test_a_client_that_does_not_read_is_cut(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n")
        eventually(lambda: running.open == 1)
        eventually(lambda: running.open == 0)
        assert len(read(client)) < BIG


def test_few_requests_may_be_sent_ahead(running: Running) -> None:
    answer = running.talk((GET + b"\r\n") * MAX_AHEAD + GET + CLOSE)
    assert answer.count(b"HTTP/1.1 200 ") == MAX_AHEAD + 1
    waiting = b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n"
    assert b"HTTP/1.1 200 " not in running.talk(waiting + (GET + b"\r\n") * 10 * MAX_AHEAD)
    eventually(lambda: running.open == 0)


def test_a_bad_request_behind_a_good_one_is_not_answered_in_its_place(running: Running) -> None:
    waiting = b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n"
    assert running.talk(waiting + b"nonsense\r\n\r\n") == b""


def test_the_longest_waiting_give_way(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 60.0)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 100)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(running.connect())
        eventually(lambda: running.open == 1)
        busy = stack.enter_context(running.connect())
        busy.sendall(POST + b"content-length: 1\r\n" + CLOSE)
        eventually(lambda: running.open == 2)
        for _ in range(300):
            stack.enter_context(running.connect())
        eventually(lambda: running.talk(GET, CLOSE).startswith(b"HTTP/1.1 200 "))
        assert running.open <= 101
        assert read(first) == b""
        busy.sendall(b"x")  # it was not waiting
        assert read(busy).startswith(b"HTTP/1.1 200 ")


def test_no_websockets(running: Running) -> None:
    upgrade = (
        b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert running.talk(GET, upgrade).startswith(b"HTTP/1.1 200 ")
    eventually(lambda: running.open == 0)
