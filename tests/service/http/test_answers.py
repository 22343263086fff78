"""An answer that is sent at once is that which its messages would send, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from service.http.answers import SEND_WHOLE, Answer
from tests.service.host.running import Running
from tests.service.waiting import eventually

BODY = b'{"task":"a"}'


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body and answers: by messages where the path says so."""
    while (await receive())["more_body"]:
        pass
    assert SEND_WHOLE in scope
    if scope["path"] == "/messages":
        del scope[SEND_WHOLE]
    await Answer(BODY, b"total;dur=1.5")(scope, receive, send)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    made = Running(app)
    made.thread.start()
    eventually(lambda: made.server.started)
    yield made
    made.server.should_exit = True
    made.thread.join()


LAST = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx"
REQUESTS = {
    "the last": LAST,
    "one before": LAST.replace(b"connection: close\r\n", b"") + LAST,
    "of HTTP/1.0": b"POST %s HTTP/1.0\r\ncontent-length: 1\r\n\r\nx",
    "of a careful client": LAST.replace(b"content", b"expect: 100-continue\r\ncontent"),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_both_ways_send_the_same(running: Running, kind: str) -> None:
    def told(path: bytes) -> bytes:
        count = REQUESTS[kind].count(b"%s")
        found = running.talk(REQUESTS[kind] % ((path,) * count))
        assert found.count(BODY) == count
        return re.sub(rb"date: [^\r]*", b"date:", found)

    assert told(b"/whole") == told(b"/messages")


def test_a_half_closed_client_is_answered_alike(running: Running) -> None:
    for path in (b"/whole", b"/messages"):
        with running.connect() as client:
            client.sendall(LAST.replace(b"connection: close\r\n", b"") % path)
            client.shutdown(1)
            found = b""
            while data := client.recv(65536):
                found += data
        assert found.startswith(b"HTTP/1.1 200 OK\r\n") and found.endswith(BODY)
        assert found.count(b"HTTP/1.1") == 1
