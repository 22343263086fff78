"""A real server that answers with what it has at hand, and a clock that only sleeping moves."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.client import Retries

Canned = tuple[int, dict[str, str], Any]  # status, headers, body: bytes, or JSON
GOOD = {"task": "t", "version": 1, "predictions": [{"label": "a", "probability": 1}]}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with what its server has at hand, one answer a request."""

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        server: Any = self.server
        self.rfile.read(int(self.headers["content-length"] or 0))
        server.seen.append(dict(self.headers))
        server.paths.append(self.path)
        status, headers, body = server.answers.pop(0)
        if status == 0:  # closes without a word
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Any]:
    """A server with `answers` to give, and `seen` and `paths` of what came."""
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        seen: Any = server
        seen.answers, seen.seen, seen.paths = [], [], []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield seen
        server.shutdown()
        thread.join()


def problem(status: int, detail: str, **headers: str) -> Canned:
    """A refusal as a gateway writes it."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, headers, {"type": "urn:munet:problem:some", "detail": detail}


class Time:
    """Passes only while somebody sleeps."""

    def __init__(self, draw: float = 0.0) -> None:
        self.now, self.slept, self._draw = 1e6, [], draw

    def retries(self, **options: Any) -> Retries:
        """Retries by this clock."""
        own = {
            "clock": lambda: self.now,
            "wall_clock": lambda: self.now,
            "draw": lambda: self._draw,
        }
        return Retries(**own, **options)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)
