"""Health on a port of its own: also while the event loop is busy, for all that is sent there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from model_store import ModelStore
from service.errors import SettingsError
from service.http.health import HEAD_BYTES, MOST, Health, require_port
from service.http.loop_delay import LOOP
from service.runtime import HUNG_S
from tests.service.in_process import Gateway
from tests.service.systems import publish
from tests.service.waiting import PATIENCE_S, eventually


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def sent(port: int, data: bytes) -> bytes:
    """All that comes back."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        connection.sendall(data)
        found = b""
        try:
            while more := connection.recv(4096):
                found += more
        except ConnectionResetError:
            pass
        return found


def status(port: int, path: str, method: str = "GET") -> int:
    answer = sent(port, f"{method} {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    return int(answer.split()[1]) if answer else 0


@pytest.fixture
def looks() -> dict[str, bool]:
    return {"alive": True, "ready": True}


@pytest.fixture
def port(looks: dict[str, bool]) -> Iterator[int]:
    def look(name: str) -> Callable[[], bool]:
        return lambda: looks[name]

    found = free_port()
    health = Health(found, {name: look(name) for name in looks}, shared=False)
    health.start()
    yield found
    health.stop()
    with pytest.raises(ConnectionRefusedError):
        status(found, "/livez")


def test_it_says_what_is(port: int, looks: dict[str, bool]) -> None:
    for path, name in (("/livez", "alive"), ("/healthz", "alive"), ("/readyz", "ready")):
        for looks[name] in (False, True):
            assert (
                status(port, path) == status(port, f"{path}?a=b") == (200 if looks[name] else 503)
            )
    assert status(port, "/readyz", "HEAD") == 200
    assert status(port, "/readyz", "POST") == 405
    assert status(port, "/classify/a") == status(port, "/") == 404


@pytest.mark.parametrize(
    "junk",
    [
        b"\r\n\r\n",
        b"\0" * 100 + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"x" * (2 * HEAD_BYTES),
        b"\x16\x03\x01",
    ],
    ids=["empty", "zeros", "word", "long", "tls"],
)
def test_no_junk_ends_it(port: int, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        connection.sendall(junk)
        assert status(port, "/livez") == 200


def test_silent_probes_keep_no_others_out(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.http.health.HEAD_S", 0.2)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(2 * MOST)]
    eventually(lambda: status(port, "/livez") == 200)
    for one in silent:
        one.close()


def test_health_is_answered_while_the_event_loop_does_not_run(
    tmp_path: Any, compilations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is the case here between two requests; on the gateway's port nothing would answer."""
    store = ModelStore(tmp_path, create=True)
    publish(store, "a")
    port = free_port()
    gateway = Gateway(store, compilations, health_port=port)
    try:
        runtime = gateway.app.state.runtime
        eventually(lambda: status(port, "/readyz") == 200)
        assert status(port, "/livez") == 200
        runtime.draining = True
        assert (status(port, "/readyz"), status(port, "/livez")) == (503, 200)
        runtime.draining = False
        monkeypatch.setattr(LOOP, "seconds", lambda _: HUNG_S / 2)
        assert status(port, "/livez") == 200  # overloaded, and no restart would help
        monkeypatch.setattr(LOOP, "seconds", lambda _: 2 * HUNG_S)
        assert status(port, "/livez") == 503  # no load explains that
    finally:
        gateway.close()


def test_a_port_that_is_taken_is_said_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"MUNET_HEALTH_PORT.*{port}"):
            require_port(port)
        with pytest.raises(SettingsError, match="MUNET_HEALTH_PORT"):
            Health(port, {}, shared=False)


def test_it_is_answered_while_another_thread_computes(port: int) -> None:
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=compute) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert [status(port, "/readyz") for _ in range(5)] == [200] * 5
    finally:
        over.set()
        for thread in threads:
            thread.join()
