"""One JSON line for each request, on standard output; a slow reader costs lines, never answers.

A line is made when the request ends, and a thread of its own writes it. It is short enough for one
write to a pipe, so lines of several workers never mix. All requests are logged: a sample would
leave out the request that somebody looks for.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from service.request import Exchange, Request

WAITING_LINES = 10_000  # about 5 MB
LONGEST_LINE = 4096  # bytes; what Linux writes to a pipe at once
SHOWN_CHARACTERS = 200  # of a path or a name that somebody sent
WRITE_EVERY_S = 0.05  # waking up for each line would cost more than the lines
LAST_WORDS_S = 1.0

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class AccessLog:
    """Lines on their way to `write`."""

    def __init__(self, write: Callable[[bytes], Any], dropped: Callable[[], None]) -> None:
        """`write` may block; `dropped` is called for each line that found no room or no reader."""
        self._write = write
        self._dropped = dropped
        self._lines: queue.Queue[bytes] = queue.Queue(WAITING_LINES)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)

    def start(self) -> None:
        """Starts the thread that writes."""
        self._thread.start()

    def stop(self) -> None:
        """Writes what waits, for a moment at most."""
        self._closing.set()
        with contextlib.suppress(queue.Full):  # then it does not wait for one
            self._lines.put_nowait(b"")
        self._thread.join(LAST_WORDS_S)

    def note(self, exchange: Exchange) -> None:
        """Adds a request's line; never blocks."""
        try:
            self._lines.put_nowait(line(exchange))
        except queue.Full:
            self._dropped()

    def _run(self) -> None:
        while not self._closing.is_set():
            first = self._lines.get()
            self._closing.wait(WRITE_EVERY_S)
            self._put(first)
            self._drain()
        self._drain()  # what came between the last look and the end

    def _drain(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._put(self._lines.get_nowait())

    def _put(self, waiting: bytes) -> None:
        try:
            self._write(waiting)
        except OSError:  # nobody reads any more
            self._dropped()


def line(exchange: Exchange) -> bytes:
    """The line of one request; milliseconds and bytes."""
    ended_at = time.time() - (time.monotonic() - exchange.ended)
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(ended_at, UTC).isoformat(timespec="milliseconds"),
        "method": exchange.method[:20],
        "route": exchange.route,
        "path": exchange.path[:SHOWN_CHARACTERS],
        "status": exchange.status,
        "ms": _milliseconds(exchange.ended - exchange.started),
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "client": exchange.client,
        "token": exchange.token,
        "request_id": exchange.request_id,
        "trace_id": exchange.trace_id,
    }
    classified = _classified(exchange.request) if exchange.request is not None else {}
    text = _encode(fields | classified)
    if len(text) >= LONGEST_LINE:  # in ASCII, a byte for each character
        text = _encode(fields | classified | {"path": None, "tasks": None, "versions": None})
    return text.encode() + b"\n"


def _classified(request: Request) -> dict[str, Any]:
    ran = request.rows > 0
    return {
        "protocol": request.protocol,
        "tasks": [task[:SHOWN_CHARACTERS] for task in request.tasks],
        "versions": request.versions if ran else None,
        "rows": request.rows if ran else None,
        "batch_rows": request.batch_rows if ran else None,
        "batch_tasks": request.batch_tasks if ran else None,
        "refusal": request.refusal,
        "stages_ms": {stage: _milliseconds(s) for stage, s in request.seconds.items()},
    }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)
