"""A request on its way through the batcher: its state, and how its answer gets to its client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, TypeVar

from service.compute.decoders import Turn
from service.compute.fair_queue import Ask
from service.compute.tuning import RETRY_AFTER_S
from service.errors import DeadlineExceeded, GatewayError, Unavailable
from service.request import Timings

RowT = TypeVar("RowT")
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Done(Generic[AnswerT]):
    """A row's answer, and the batch that it ran in."""

    answer: AnswerT
    batch_rows: int = field(default=0, compare=False)
    batch_tasks: int = field(default=0, compare=False)


Outcome = GatewayError | list[Done[AnswerT]]


class State(Enum):
    """Where a submission is; it only ever moves down this list, to one of the last two in the end.

    While it prepares or waits it takes room in the queues.
    """

    PREPARING = auto()  # its rows are being made, or wait for that
    WAITING = auto()  # for a batch
    RUNNING = auto()  # in a batch, or that has run
    DROPPED = auto()  # refused, failed or cancelled


@dataclass(slots=True, eq=False)
class Submission(Generic[RowT, AnswerT]):
    """What the batcher knows of a request."""

    ask: Ask
    since: float
    certain: bool  # nothing was before it when it came: no forecast may refuse it
    expected_s: float  # of making its rows
    future: asyncio.Future[list[Done[AnswerT]]]
    timings: Timings  # which the batcher's threads fill in
    turn: Turn | None = None  # in which its rows are made
    rows: Sequence[RowT] = ()
    making_s: float = 0.0  # spent, without waiting for its turn
    light: bool = False  # of a task that has less than its share
    state: State = State.PREPARING


def split(
    requests: Sequence[Submission[RowT, AnswerT]], answers: Sequence[AnswerT], ended: float
) -> Iterator[tuple[Submission[RowT, AnswerT], Outcome[AnswerT]]]:
    """Each request's part of the answers of a batch that ran until this time."""
    rest = iter(answers)
    tasks = len({task for request in requests for task in request.ask.tasks})
    for request in requests:
        request.timings.ran = ended
        yield request, [Done(next(rest), len(answers), tasks) for _ in request.rows]


def settle(outcomes: Sequence[tuple[Submission[RowT, AnswerT], Outcome[AnswerT]]]) -> None:
    """Hands outcomes over to the event loop, which is woken up once for all of them."""
    if outcomes:
        loop = outcomes[0][0].future.get_loop()
        loop.call_soon_threadsafe(_set, outcomes)


def _set(outcomes: Sequence[tuple[Submission[RowT, AnswerT], Outcome[AnswerT]]]) -> None:
    for request, outcome in outcomes:
        if request.future.done():  # cancelled while it ran
            continue
        if isinstance(outcome, GatewayError):
            request.future.set_exception(outcome)
        else:
            request.future.set_result(outcome)


def too_late(request: Submission[RowT, AnswerT], now: float) -> DeadlineExceeded:
    """The error of one that the engine can no longer answer in time."""
    passed = "passed" if request.ask.deadline < now else "would pass before the answer"
    waited_s = now - request.timings.queued
    return DeadlineExceeded(f"the deadline {passed}, after {waited_s:.3f} s waiting")


def stopping() -> Unavailable:
    """The error of all that come or wait when the gateway stops."""
    return Unavailable("the gateway is stopping", retry_after_s=RETRY_AFTER_S)
