"""A server of files that fails as it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

CONTENT = np.random.default_rng(0).bytes(3_000_000)


@dataclass
class Served:
    """What a server sends, and what it was asked."""

    content: bytes = CONTENT
    etag: str | None = '"1"'
    ranges: bool = True
    chunked: bool = False
    cuts: list[int] = field(default_factory=list)  # answer n breaks off after cuts[n] bytes
    stalls: int = 0  # answers that stop in the middle and keep the connection
    statuses: list[int] = field(default_factory=list)  # of the first answers, instead of a file
    shift: int = 0  # answers with other bytes than asked for
    asked: list[str | None] = field(default_factory=list)  # Range headers
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)  # ends what stalls


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    """A server of its own; `served.url` is its one file."""
    handler = type("OneHandler", (Handler,), {"served": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_port}/roots/L_16%20i21k.npz?token=1"
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    """Sends `served.content` with its faults."""

    protocol_version = "HTTP/1.1"
    served: Served

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to stderr."""

    def do_GET(self) -> None:
        served = self.served
        served.asked.append(self.headers.get("Range"))
        self.close_connection = True
        if served.statuses:
            self.send_error(served.statuses.pop(0))
            return
        start = self.asked_for()
        if start >= len(served.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(served.content)}")
            self.end_headers()
            return
        body = served.content[start:]
        self.send_head(start, len(body))
        if served.stalls:
            served.stalls -= 1
            self.wfile.write(body[: len(body) // 2])
            served.over.wait(60)
            return
        cut = served.cuts.pop(0) if served.cuts else len(body)
        self.send_body(body[:cut], whole=cut >= len(body))

    def asked_for(self) -> int:
        """First byte to send; the whole file if If-Range names another version."""
        wanted, version = self.headers.get("Range"), self.headers.get("If-Range")
        if not (wanted and self.served.ranges and version == self.served.etag):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-")) + self.served.shift

    def send_head(self, start: int, length: int) -> None:
        whole = len(self.served.content)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if self.served.etag:
            self.send_header("ETag", self.served.etag)
        if self.served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def send_body(self, body: bytes, whole: bool) -> None:
        if not self.served.chunked:
            self.wfile.write(body)
            return
        for at in range(0, len(body), 100_000):
            chunk = body[at : at + 100_000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if whole:
            self.wfile.write(b"0\r\n\r\n")
