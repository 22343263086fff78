"""A client that costs little next to the servers that it asks: one thread, kept connections.

Bodies are kept, and looked at once the load has ended. An answer that does not state its length is
taken for empty.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

TIMEOUT_S = 60.0
RECEIVE_BYTES = 262_144
HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length:"
LOST = 0  # the status of a request whose connection was closed, or that was not answered in time


class Request(NamedTuple):
    """One question, and what its answer is compared with."""

    task: str
    picture: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request."""

    request: Request
    status: int
    due: float  # of perf_counter, when it was to be sent
    ended: float
    body: bytes

    @property
    def latency_s(self) -> float:
        """From when it was due to the last byte."""
        return self.ended - self.due


@dataclass(slots=True)
class Answers:
    """Those of one load."""

    seconds: float = 0.0
    all: list[Answer] = field(default_factory=list)
    lag_s: float = 0.0  # the most that this client was late


class _Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request: Request | None = None
        self._received = b""
        self._end = -1  # of the answer in what is received, once it is known
        self._due = 0.0

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, request: Request, due: float) -> None:
        self.request, self._due = request, due
        self._received, self._end = b"", -1
        self.socket.sendall(request.data)

    def receive(self) -> Answer | None:
        """The answer, once all of it is there or nothing more will come."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        self._received += data
        if not data or self._is_whole():
            status = self._received[9:12] if data else b""
            return self.answer(int(status) if status.isdigit() else LOST)
        return None

    def answer(self, status: int) -> Answer:
        request, self.request = self.request, None
        assert request is not None
        body = self._received.partition(HEAD_END)[2]
        return Answer(request, status, self._due, time.perf_counter(), body)

    def _is_whole(self) -> bool:
        if self._end < 0:
            at = self._received.find(HEAD_END)
            if at < 0:
                return False
            _, _, length = self._received[:at].lower().partition(LENGTH)
            self._end = at + len(HEAD_END) + int(length.partition(b"\r\n")[0] or 0)
        return len(self._received) >= self._end


class _Connections:
    """All of one load; those that are lost are replaced when one is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._busy: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self.answers = Answers()

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.answers.seconds = time.perf_counter() - self._began
        for connection in (*self._busy, *self._idle):
            connection.socket.close()

    @property
    def busy(self) -> int:
        """How many requests are under way."""
        return len(self._busy)

    def send(self, request: Request, due: float) -> None:
        """On a connection that is free, or a new one; where there is no server it is lost."""
        try:
            connection = self._free()
            connection.send(request, due)
        except OSError:
            self.answers.all.append(Answer(request, LOST, due, time.perf_counter(), b""))
        else:
            self._busy.add(connection)

    def _free(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not select.select([connection], [], [], 0)[0]:
                return connection
            connection.socket.close()  # the server closes what was idle for seconds
        return _Connection(self._port)

    def wait(self, seconds: float) -> int:
        """Until something is answered, at most for `seconds`; how many requests have ended."""
        ended = 0
        for connection in select.select(list(self._busy), [], [], seconds)[0]:
            answer = connection.receive()
            if answer is None:
                continue
            ended += 1
            self.answers.all.append(answer)
            self._busy.remove(connection)
            if answer.status == LOST:
                connection.socket.close()
            else:
                self._idle.append(connection)
        return ended

    def give_up(self) -> None:
        """What is not answered by now is lost."""
        for connection in self._busy:
            self.answers.all.append(connection.answer(LOST))
            connection.socket.close()
        self._busy.clear()


def closed_loop(
    port: int,
    requests: Iterator[Request],
    connections: int,
    *,
    seconds: float = TIMEOUT_S,
    pause_s: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
) -> Answers:
    """Asks again as soon as an answer is there, or a pause later, for `seconds` or until `stop`.

    Ends with the last request, if there is one, or once nobody answers any more.
    """
    with _Connections(port) as opened:
        end = time.perf_counter() + seconds
        free = connections
        while True:
            for _ in range(free):
                if time.perf_counter() < end and not stop():
                    if (request := next(requests, None)) is None:
                        break
                    opened.send(request, time.perf_counter())
            if not opened.busy:
                break
            if not (free := opened.wait(TIMEOUT_S)):
                if time.perf_counter() > end + TIMEOUT_S:
                    opened.give_up()
            elif pause_s:
                time.sleep(pause_s)
    return opened.answers


def open_loop(port: int, requests: Iterator[Request], due_s: Sequence[float]) -> Answers:
    """Sends each request at its time (seconds from now), answered or not what went before."""
    with _Connections(port) as opened:
        began = time.perf_counter()
        sent = 0
        while sent < len(due_s) or opened.busy:
            now = time.perf_counter() - began
            if sent < len(due_s) and due_s[sent] <= now:
                opened.answers.lag_s = max(opened.answers.lag_s, now - due_s[sent])
                opened.send(next(requests), began + due_s[sent])
                sent += 1
                continue
            opened.wait(due_s[sent] - now if sent < len(due_s) else TIMEOUT_S)
            if sent == len(due_s) and time.perf_counter() - began > due_s[-1] + TIMEOUT_S:
                opened.give_up()
    return opened.answers
