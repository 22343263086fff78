"""What is seen of every request, whatever its protocol: one place reports its end.

A request to classify ends in the metrics (`watched`); with an access log or traces, every request
ends there as an `Exchange`, which `exchanged` opens where it comes in.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from service.errors import GatewayError
from service.telemetry.metrics import Metrics
from service.timings import TOTAL, Timings

logger = logging.getLogger(__name__)
SHORT_S = 1.0  # a deadline below it says more of its client than of the gateway
OF_TIME = frozenset({"deadline", "unavailable", "task-queue-full", "upload-timeout"})


@dataclass(frozen=True, slots=True)
class Course:
    """What ran for a request that was classified."""

    versions: Sequence[int | None]  # served, by task; None where a task could not answer
    rows: int
    batch_rows: int  # in the batch that its rows were in
    batch_tasks: int


@dataclass(slots=True)
class Seen:
    """One request to classify, filled in on its way."""

    protocol: str  # http | v2-http | v2-grpc
    tasks: Sequence[str]
    timings: Timings = field(default_factory=Timings)
    status: int = 500
    refusal: str | None = None  # its kind
    seconds: Mapping[str, float] = field(default_factory=dict)  # of its stages, once it has ended
    course: Course | None = None  # if it was classified
    patience_s: float = math.inf  # from its start to the deadline that its client gave
    problems: Mapping[str, int] = field(default_factory=dict)  # status of tasks with no answer

    @property
    def outcome(self) -> str:
        """One word for how it ended."""
        return {200: "answered", 500: "failed"}.get(self.status, "refused")

    @property
    def reason(self) -> str | None:
        """Of its refusal, for the metric. A client that leaves hardly any time refuses itself."""
        impatient = self.patience_s < SHORT_S and self.refusal in OF_TIME
        return "short-deadline" if impatient else self.refusal

    def classified(self, course: Course) -> dict[str, float]:
        """The stages' times so far, with the total."""
        self.status, self.course = 200, course
        return self.timings.seconds()

    def refused(self, error: Exception) -> None:
        """It is answered with this."""
        self.status, self.course = 500, None
        if isinstance(error, GatewayError):
            self.status, self.refusal = error.status, error.kind
        self.timings.enter("answer")

    def end(self) -> None:
        """The last byte of its answer is written."""
        self.timings.ended = time.monotonic()
        self.seconds = self.timings.seconds(self.timings.ended)


@dataclass(slots=True, eq=False)
class Exchange:
    """Any request and its answer, as seen from where it comes in; times of `time.monotonic`."""

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
    seen: Seen | None = None  # of a request to classify
    trace_id: str | None = None  # once it is in a trace that is kept


Report = Callable[[Exchange], None]
_CURRENT: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def exchanged(reports: Sequence[Report], exchange: Exchange) -> Iterator[None]:
    """Around the whole of a request; all that is seen on its way belongs to this exchange."""
    token = _CURRENT.set(exchange)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        seen = exchange.seen
        exchange.ended = time.monotonic() if seen is None else seen.timings.ended
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


@contextmanager
def watched(
    metrics: Metrics, seen: Seen, count: Callable[[Seen], None] = lambda _: None
) -> Iterator[Seen]:
    """Around a request to classify and its answer. `count` hears of its end.

    GatewayErrors that were not answered are noted and go on.
    """
    exchange = _CURRENT.get()
    if exchange is not None:
        exchange.seen = seen
        seen.timings.begin(exchange.started)
    try:
        yield seen
    except Exception as error:
        seen.refused(error)
        raise
    finally:
        seen.end()
        metrics.ended(seen.outcome, seen.seconds, seen.reason)
        for task, status in seen.problems.items():
            metrics.answered([task], status, None)
        answered = [task for task in seen.tasks if task not in seen.problems]
        total_s = None if seen.course is None else seen.seconds[TOTAL]
        metrics.answered(answered, seen.status, total_s)
        count(seen)
