"""Limits that hold before any work is done, also for clients that are slow or gone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import loadtests.gateways
from model_store import ModelStore
from service.errors import Unavailable
from service.http.uploads import Intake
from tests.service.conftest import Served
from tests.service.host.running import read
from tests.service.http.clients import Client, hold
from tests.service.in_process import Gateway, refused
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually


@pytest.fixture
def tight(tmp_path: Path, compilations: str) -> Iterator[Gateway]:
    """A gateway with one decoding thread, and memory for two small bodies."""
    store = ModelStore(tmp_path, create=True)
    publish(store, "plain")
    publish(store, "other")
    made = Gateway(store, compilations, decode_threads=1, upload_memory=20_000)
    assert made.classify("plain", png(1)).status_code == 200
    # The engine lets go of the picture a moment after its answer.
    eventually(lambda: nothing_held(made.app.state.runtime.intake))
    yield made
    made.close()


def nothing_held(intake: Intake) -> bool:
    try:
        intake.take(20_000)
    except Unavailable:
        return False
    intake.give(20_000)
    return True


def test_an_image_that_nobody_waits_for_is_not_decoded(
    tight: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    monkeypatch.setattr("service.images.File.look", lambda *_: decoded.append(1))
    busy = threading.Event()
    hold(tight, busy)
    decoders, submitted = tight.app.state.runtime.decoders, list[object]()
    submit = decoders.submit

    def noted(*work: Any) -> Any:
        submitted.append(work)
        return submit(*work)

    monkeypatch.setattr(decoders, "submit", noted)

    async def come_and_go() -> list[int]:
        clients = [Client(tight) for _ in range(5)]
        for client in clients:
            client.send(png(1))
        async with asyncio.timeout(PATIENCE_S):
            while len(submitted) < len(clients):  # all of them wait for the thread
                await asyncio.sleep(0.01)
        for client in clients:
            client.leave()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(client.task for client in clients))
        return [status for client in clients for status in client.statuses]

    assert tight.runner.run(come_and_go()) == [499] * 5
    busy.set()
    monkeypatch.undo()
    assert tight.classify("plain", png(1)).status_code == 200  # behind them in the queue
    assert not decoded


def test_an_image_that_is_late_is_not_decoded(
    tight: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    monkeypatch.setattr("service.images.File.look", lambda *_: decoded.append(1))
    busy = threading.Event()
    hold(tight, busy)
    try:
        refused(tight.classify("plain", png(1), munet_deadline_ms="2000"), 504, "deadline")
    finally:
        busy.set()
    monkeypatch.undo()
    assert tight.classify("plain", png(1)).status_code == 200
    assert not decoded


def test_bodies_take_a_limited_memory_together(tight: Gateway) -> None:
    async def crowd() -> None:
        waiting = [Client(tight), Client(tight, "/classify/other", address="127.0.0.2")]
        for client in waiting:
            client.send(bytes(9_000), more=True)
        intake = tight.app.state.runtime.intake
        async with asyncio.timeout(PATIENCE_S):
            while intake._held < 18_000:
                await asyncio.sleep(0.01)
        third = Client(tight)
        third.send(bytes(9_000), more=True)
        await third.task
        assert third.statuses == [503]
        waiting[0].leave()
        await waiting[0].task
        fourth = Client(tight)
        fourth.send(bytes(9_000))
        await fourth.task
        assert fourth.statuses == [400]
        waiting[1].send(b"")
        await waiting[1].task
        assert waiting[1].statuses == [400]

    tight.runner.run(crowd())
    for _ in range(3):  # nothing stays counted, however it ended
        gc.collect()
        refused(tight.classify("plain", bytes(20_001)), 503, "unavailable")
        # The thread that had a body lets go of it a moment after its answer.
        eventually(lambda: tight.classify("plain", bytes(9_000)).status_code == 400)
        eventually(lambda: tight.classify("plain", png(1)).status_code == 200)
        form = tight.request("POST", "/classify/plain", files={"f": png(1)})
        assert form.status_code == 200


def test_what_a_body_inflates_to_takes_memory_too(tight: Gateway) -> None:
    body = gzip.compress(b'{"inputs": []}' + b" " * 30_000)
    headers = {"content-encoding": "gzip"}
    answer = tight.request("POST", "/v2/models/plain/infer", content=body, headers=headers)
    refused(answer, 503, "unavailable")


def test_what_is_kept_is_counted_until_it_is_let_go_of() -> None:
    intake = Intake(1000)
    image = intake.kept(bytes(600))
    with pytest.raises(Unavailable):
        intake.kept(bytes(600))
    del image
    with intake.holding(600), pytest.raises(Unavailable):
        intake.take(600)
    intake.take(1000)


# -- a real server


def connect(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.server.port), timeout=PATIENCE_S)


HEAD = b"POST /classify/plain HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"


def test_a_byte_now_and_then_is_cut_at_the_deadline(served: Served) -> None:
    served.server.classify("plain", png(1))
    with connect(served) as client:
        client.sendall(HEAD + b"munet-deadline-ms: 300\r\ncontent-length: 1000\r\n\r\n")
        trickling = threading.Thread(target=trickle, args=(client,))
        trickling.start()
        answer = read(client)  # to the end: the connection is closed
        trickling.join()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"upload-timeout" in answer


def trickle(client: socket.socket) -> None:
    stop = threading.Event()
    with contextlib.suppress(OSError):
        for _ in range(int(PATIENCE_S / 0.05)):
            client.send(b"x")
            stop.wait(0.05)


def test_floods_of_heads_end_while_others_are_answered(served: Served) -> None:
    served.server.classify("plain", png(1))
    floods = [b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n", b"GET /"]
    for start, more in zip(
        floods, [b"y" * 100_000, b"x: y\r\n" * 10_000, b"y" * 100_000], strict=True
    ):
        with connect(served) as client, contextlib.suppress(ConnectionError):
            client.sendall(start)
            for _ in range(100):
                client.sendall(more)
            raise AssertionError("ten megabytes of a head were taken")
    assert served.server.classify("plain", png(1)).status == 200


def test_two_readings_of_one_request_are_refused(served: Served) -> None:
    inner = b"0\r\n\r\nGET /tasks HTTP/1.1\r\nhost: localhost\r\n\r\n"
    both = b"transfer-encoding: chunked\r\ncontent-length: %d\r\n\r\n" % len(inner)
    with connect(served) as client:
        client.sendall(HEAD + both + inner)
        answer = read(client)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_idle_connections_harm_nobody(served: Served) -> None:
    served.server.classify("plain", png(1))
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connect(served))
        eventually(lambda: served.server.classify("plain", png(1)).status == 200)
        assert served.server.ask("GET", "/readyz").status == 200


@pytest.mark.slow
def test_neither_idle_connections_nor_floods_fill_the_memory(
    tmp_path: Path, compilations: str
) -> None:
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain")
    variables = {"MUNET_COMPILATION_CACHE": compilations, "MUNET_PRELOAD": "*"}
    with loadtests.gateways.Gateway(store.url, tmp_path / "home", **variables) as server:

        def open_one() -> socket.socket:
            return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)

        def answers() -> bool:
            with open_one() as client:
                head = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(png(1))
                client.sendall(head + png(1))
                return read(client).startswith(b"HTTP/1.1 200 ")

        assert answers()
        before = server.resident_bytes()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(open_one()) for _ in range(5000)]
            for client in clients[::2]:
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"GET / HTTP/1.1\r\nx: ")
            assert answers()
            assert server.resident_bytes() - before < 200 * 2**20
            for client in clients[::5]:  # 1,000 heads of ten megabytes
                with contextlib.suppress(ConnectionError):
                    for _ in range(10):
                        client.sendall(b"y" * 2**20)
            assert answers()
            assert server.resident_bytes() - before < 200 * 2**20
            for client in clients:  # none is left open
                read(client)
        assert answers()
