"""What is seen of every request, whatever its protocol: one place reports its end.

A request to classify ends in the metrics (`watched`); with an access log or traces, every request
ends there as an `Exchange`, which `exchanged` opens where it comes in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from service.errors import GatewayError
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Course:
    """How a request went that was classified."""

    received: float  # when its images had arrived, a time of `time.monotonic`
    seconds: dict[str, float]  # of the stages from then on: decode, queue, execute
    versions: Sequence[int | None]  # served, by task; None where a task could not answer
    rows: int
    batch_rows: int  # in the batch that its rows were in
    batch_tasks: int


@dataclass(slots=True)
class Seen:
    """One request to classify, filled in on its way."""

    protocol: str  # http | v2-http | v2-grpc
    tasks: Sequence[str]
    started: float = field(default_factory=time.monotonic)
    status: int = 500
    refusal: str | None = None  # its kind
    seconds: dict[str, float] | None = None  # by stage, with `total`, if it was classified
    course: Course | None = None
    problems: Mapping[str, int] = field(default_factory=dict)  # status of tasks with no answer

    def classified(self, course: Course) -> dict[str, float]:
        """The stages' times, with the total."""
        self.status, self.course = 200, course
        self.seconds = {**course.seconds, "total": time.monotonic() - self.started}
        return self.seconds


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
        exchange.ended = time.monotonic()
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
    """Around a request to classify; GatewayErrors are noted and go on. `count` hears of the end."""
    exchange = _CURRENT.get()
    if exchange is not None:
        exchange.seen = seen
    try:
        yield seen
    except GatewayError as error:
        seen.status, seen.seconds = error.status, None
        seen.refusal = error.kind
        metrics.rejected.labels(error.kind).inc()
        raise
    except Exception:
        seen.status, seen.seconds, seen.course = 500, None, None
        raise
    finally:
        for task, status in seen.problems.items():
            metrics.answered([task], status, None)
        answered = [task for task in seen.tasks if task not in seen.problems]
        metrics.answered(answered, seen.status, seen.seconds)
        count(seen)
