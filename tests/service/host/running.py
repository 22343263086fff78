"""Small apps behind our connections, in a thread of this process."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

import uvicorn

from service.host.connections import Connection
from tests.service.waiting import PATIENCE_S

BIG = 50 * 2**20


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body's length, or with a lot; `/early` does not read the body, `/wait`
    never answers."""
    assert scope["type"] == "http"
    size, more = 0, scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    while scope["path"] == "/wait":
        if (await receive())["type"] == "http.disconnect":
            return
    body = bytes(BIG) if scope["path"] == "/big" else b"%d" % size
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Running:
    """The app behind uvicorn with our connections, in a thread of this process."""

    def __init__(self, app: Any = app) -> None:
        config = uvicorn.Config(app, http=Connection, port=0, log_config=None, lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)

    @property
    def open(self) -> int:
        return len(self.server.server_state.connections)

    def connect(self) -> socket.socket:
        port = self.server.servers[0].sockets[0].getsockname()[1]
        return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)

    def talk(self, *parts: bytes) -> bytes:
        """What comes back until the server closes; it may do so while the parts are sent."""
        with self.connect() as client:
            with contextlib.suppress(ConnectionError):
                for part in parts:
                    client.sendall(part)
            return read(client)


def read(client: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            found += data
    return found


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says what it was asked; `/early` before its body has come."""
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    names = b",".join(sorted({name for name, _ in scope["headers"]} - {b"upgrade"}))
    said = b"<%s %s %s %s>" % (scope["method"].encode(), scope["path"].encode(), names, body)
    headers = [(b"content-length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})
