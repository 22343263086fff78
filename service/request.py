"""One request to classify, from its first byte to its line in the log; the same for every protocol.

A `Request` is made when its head has been read. Each stage fills in its part: who asks for what,
when the request entered which stage (`Timings`), and how it was answered. The queue, the answer,
metrics, log and traces read it.

Law of its time: from its start to its end, a request with all its tasks is in exactly one stage at
any time. A stage ends when the next one begins. So the times of the stages sum to the whole, if the
request is answered, refused or failed.

With an access log or traces, every request of every kind ends there as an `Exchange`.
`exchanged` opens it where the request comes in.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from service.access import NOTHING, Grants
from service.errors import GatewayError

logger = logging.getLogger(__name__)
SHORT_S = 1.0  # a deadline below it says more of its client than of the gateway
OF_TIME = frozenset({"deadline", "unavailable", "task-queue-full", "upload-timeout"})
STAGES: tuple[str, ...] = ("receive", "decode", "load", "queue", "execute", "answer")
TOTAL = "total"
TRACEPARENT = "traceparent"  # the header that names a trace (W3C)
KEY_HEADER = "munet-rollout-key"  # who sends the same gets the same version of a roll-out
_OF_THREADS = ("queue", "execute", "answer")
_NOTHING: Mapping[str, float] = dict.fromkeys((*STAGES, TOTAL), 0.0)


class Timings:
    """When a request came into which stage; times of `time.monotonic`.

    The request is in the stage that `enter` marked last, on the event loop's thread. The threads
    that make its rows and run them only set the three times below; `follow` adds them. What these
    threads do after the request was given up changes nothing.
    """

    __slots__ = ("ended", "marks", "queued", "ran", "running")

    def __init__(self, started: float | None = None) -> None:
        """`started` is when the request came; now, if it is not given."""
        self.marks: list[tuple[str, float]] = [
            ("receive", time.monotonic() if started is None else started)
        ]
        self.queued = math.inf  # its rows wait for a batch
        self.running = math.inf  # the batch that they are in has begun
        self.ran = math.inf  # nothing more is done for it
        self.ended = math.inf  # the last byte of its answer is written

    @property
    def started(self) -> float:
        """When the request came."""
        return self.marks[0][1]

    @property
    def stage(self) -> str:
        """The stage that it is in."""
        return self.marks[-1][0]

    def begin(self, started: float) -> None:
        """It came at this time."""
        self.marks[0] = (self.marks[0][0], started)

    def enter(self, stage: str) -> float:
        """It is in this stage from now on; returns the time."""
        now = time.monotonic()
        if self.marks[-1][0] != stage:
            self.marks.append((stage, now))
        return now

    def follow(self) -> None:
        """Takes in what threads have done for it since it was in the stage `decode`."""
        at = self.marks[-1][1]
        times = self.queued, self.running, self.ran
        for stage, began in zip(_OF_THREADS, times, strict=True):
            if at <= began < math.inf:
                self.marks.append((stage, began))
                at = began

    def spans(self, ended: float) -> Iterator[tuple[str, float, float]]:
        """Name, start and end of each stage that it was in, one after the other, up to a time."""
        stage, began = self.marks[0]
        for following, at in self.marks[1:]:
            yield stage, began, at
            stage, began = following, at
        yield stage, began, ended

    def seconds(self, ended: float | None = None) -> dict[str, float]:
        """Seconds in each stage and in `total`; up to now, if no end is given."""
        ended = time.monotonic() if ended is None else ended
        found = dict(_NOTHING)
        stage, began = self.marks[0]
        found[TOTAL] = ended - began
        for following, at in self.marks[1:]:
            found[stage] += at - began
            stage, began = following, at
        found[stage] += ended - began
        return found


@dataclass(frozen=True, slots=True)
class Features:
    """Which features of its images a request is for."""

    depth: int | None = None  # transformer blocks that they have been through; all if None
    alone: bool = True  # without logits


class Routed(Protocol):
    """Notes how a request of a task with a roll-out is answered."""

    def look(self, outcomes: Sequence[object]) -> None:
        """Before the answer is made: what the engine gave for each task."""
        ...

    def ended(self, request: Request) -> None:
        """It has ended."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """What a request asks for, and how it ends."""

    protocol: str  # http | v2-http | v2-grpc
    tasks: Sequence[str]  # distinct
    timings: Timings = field(default_factory=Timings)
    grants: Grants = NOTHING  # of who asks
    caller: str = ""  # who that is, of those who share the queue
    version: int | str | None = None  # number or alias; None is the live one
    features: Features | None = None  # None: logits only
    patience_s: float = math.inf  # from its start to its deadline
    priority: int = 0
    key: bytes = b""  # that decides which version of a roll-out answers, if the client gave one
    labels: frozenset[str] = frozenset()  # that its image has, if the client knows them
    routed: Sequence[Routed] = ()  # of tasks with roll-outs
    traceparent: str | None = None  # the header of this name, as it came
    # What became of it.
    status: int = 500
    refusal: str | None = None  # its kind
    problems: Mapping[str, int] = field(
        default_factory=dict[str, int]
    )  # status of unanswered tasks
    versions: Sequence[int | None] = ()  # that answered, by task; None where one could not
    rows: int = 0  # that ran for it; 0 of one that was not classified
    batch_rows: int = 0  # in the batch that they were in
    batch_tasks: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage, in the end

    @property
    def deadline(self) -> float:
        """A time of `time.monotonic`."""
        return self.timings.marks[0][1] + self.patience_s

    @property
    def outcome(self) -> str:
        """One word for how it ended."""
        if self.status == 200:
            return "answered"
        return "failed" if self.status == 500 else "refused"

    @property
    def reason(self) -> str | None:
        """The reason of its refusal, for the metric; a deadline that is too short has its own."""
        impatient = self.patience_s < SHORT_S and self.refusal in OF_TIME
        return "short-deadline" if impatient else self.refusal

    def refused(self, error: Exception) -> None:
        """It is answered with this."""
        self.status, self.rows = 500, 0
        if isinstance(error, GatewayError):
            self.status, self.refusal = error.status, error.kind
        self.timings.enter("answer")

    def end(self) -> None:
        """The last byte of its answer is written."""
        ended = self.timings.ended = time.monotonic()
        self.seconds = self.timings.seconds(ended)


@dataclass(slots=True, eq=False)
class Exchange:
    """Any request and its answer, as the entrance sees them; times of `time.monotonic`."""

    method: str
    path: str
    client: str
    request_id: str
    trace: dict[str, str]  # W3C headers: traceparent, tracestate
    route: str | None = None  # the template that its path fits
    token: str | None = None  # name of the token it came with
    started: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    status: int = 500
    bytes_in: int = 0
    bytes_out: int = 0
    request: Request | None = None  # to classify
    trace_id: str | None = None  # once it is in a trace that is kept


Report = Callable[[Exchange], None]
_CURRENT: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def exchanged(reports: Sequence[Report], exchange: Exchange) -> Iterator[None]:
    """Around a whole request; everything noted meanwhile belongs to this exchange."""
    token = _CURRENT.set(exchange)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        request = exchange.request
        exchange.ended = time.monotonic() if request is None else request.timings.ended
        for report in reports:
            try:
                report(exchange)
            except Exception:  # the answer is on its way: nothing of it may depend on a report
                logger.exception("event=report_failed request_id=%s", exchange.request_id)


def identified(name: str) -> None:
    """Notes whose token the current request carries."""
    exchange = _CURRENT.get()
    if exchange is not None:
        exchange.token = name


class Watch:
    """A context around a request to classify and its answer, which is counted at its end.

    GatewayErrors that were not answered are noted and raised again.
    """

    __slots__ = ("_counters", "_request")

    def __init__(self, request: Request, *counters: Callable[[Request], None]) -> None:
        """Each of the `counters` is told of a request that has ended."""
        self._request = request
        self._counters = counters
        exchange = _CURRENT.get()
        if exchange is not None:
            exchange.request = request
            request.timings.begin(exchange.started)
            request.traceparent = exchange.trace.get(TRACEPARENT)

    def __enter__(self) -> Request:
        return self._request

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        request = self._request
        if error is not None and isinstance(error, Exception):
            request.refused(error)
        request.end()
        for count in self._counters:
            count(request)
