"""Clients that have ended their sending, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service.host.transports import BEGINNING
from tests.service.conftest import Served
from tests.service.host.running import Running, echo, read
from tests.service.waiting import PATIENCE_S, eventually


class Patient:
    """An app that answers when it is told to, and notes who is gone before."""

    def __init__(self) -> None:
        self.asked, self.gone, self.over = 0, 0, threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        while message.get("more_body"):
            message = await receive()
        self.asked += 1
        left = asyncio.ensure_future(receive())
        while not self.over.is_set():
            await asyncio.sleep(0.01)
            if left.done():
                self.gone += 1
                return
        left.cancel()
        await echo(scope, None, send)


@pytest.fixture
def patient() -> Iterator[tuple[Patient, Running]]:
    app = Patient()
    running = Running(app)
    running.thread.start()
    eventually(lambda: running.server.started)
    yield app, running
    app.over.set()
    running.server.should_exit = True
    running.thread.join()


def test_a_client_that_still_sends_gets_its_answer(served: Served) -> None:
    """Closing while something is unread would reset the connection, and the answer with it."""
    body = bytes(100_000)
    head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 200000\r\n%s\r\n"
    for _ in range(10):
        for path, more, status in (
            (b"/nowhere", b"connection: close\r\n", b"404"),
            (b"/classify/plain", b"connection: close\r\ncontent-type: a/b\r\n", b"415"),
            (b"/nowhere", b"expect: 100-continue\r\n", b"404"),
            (b"/nowhere", b"host: y\r\n", b"400"),
            (b"/nowhere", b"transfer-encoding: chunked\r\n", b"400"),
        ):
            with socket.create_connection(("127.0.0.1", served.server.port), PATIENCE_S) as client:
                client.sendall(head % (path, more) + body)
                answer = b""
                while b"\r\n\r\n" not in answer:
                    answer += client.recv(65536)
                assert answer[9:12] == status
                with contextlib.suppress(ConnectionError):
                    client.sendall(body)


EARLY = b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"


def test_a_half_closed_client_gets_its_answer(patient: tuple[Patient, Running]) -> None:
    app, running = patient
    with running.connect() as client, running.connect() as other:
        for one in (client, other):
            one.sendall(EARLY)
            one.shutdown(socket.SHUT_WR)
        other.recv(1, socket.MSG_PEEK)  # what comes early is the beginning of its answer
        eventually(lambda: app.asked == 2)
        app.over.set()
        for one in (client, other):
            answer = read(one)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\n<POST /early content-length,host >")
    assert app.gone == 0


def test_all_that_came_before_the_end_is_answered(patient: tuple[Patient, Running]) -> None:
    app, running = patient
    app.over.set()
    for rest in (b"", EARLY[:-1], EARLY[:20]):
        with running.connect() as client:
            client.sendall(EARLY * 3 + rest)
            client.shutdown(socket.SHUT_WR)
            assert read(client).count(BEGINNING) == 3
    eventually(lambda: running.open == 0)


def test_a_client_that_is_gone_is_noticed(patient: tuple[Patient, Running]) -> None:
    app, running = patient
    with running.connect() as client:
        client.sendall(EARLY)
        eventually(lambda: app.asked == 1)
    eventually(lambda: app.gone == 1)
    with running.connect() as client:
        client.sendall(EARLY[:-1])  # the rest will not come
        client.shutdown(socket.SHUT_WR)
        assert read(client) == b""
    eventually(lambda: running.open == 0)


def test_the_request_that_runs_learns_that_its_connection_is_gone(
    patient: tuple[Patient, Running],
) -> None:
    """Also where another one was sent behind it."""
    app, running = patient
    with running.connect() as client:
        client.sendall(EARLY)
        eventually(lambda: app.asked == 1)
        client.sendall(EARLY + b"nonsense\r\n\r\n")
        assert read(client) == b""
    eventually(lambda: app.gone == 1)
    assert app.asked == 1


def test_a_real_server_answers_a_half_closed_client(served: Served) -> None:
    for path in ("/tasks", "/v2", "/nowhere"):
        with socket.create_connection(("127.0.0.1", served.server.port), PATIENCE_S) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                assert read(client).startswith(BEGINNING)
