"""From waiting requests to batches on one engine thread, and answers back to the event loop.

Work-conserving: whenever the engine is free it takes what waits, in the fair queue's order, up to
the size at which larger batches stop to pay. No HTTP, no JAX.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from service.compute.admission import Admission, Limits
from service.compute.decoders import Threads, Turn
from service.compute.fair_queue import Ask, FairQueue
from service.compute.pace import Pace
from service.errors import DeadlineExceeded, GatewayError, InternalError, Unavailable

__all__ = ["Ask", "BatchReport", "Batcher", "Done", "Limits"]
logger = logging.getLogger(__name__)
RowT = TypeVar("RowT")
AnswerT = TypeVar("AnswerT")
Make = Callable[[], Sequence[RowT] | None]  # a request's rows; None while there is more to do
RETRY_AFTER_S = 1.0  # when the gateway stops: another one should be up by then
LOOK_PAST = 16  # requests that do not fit into the rest of a batch, before it goes without them
# Light tasks are there while their part of the last so many requests that ran is between these.
FEW_LIGHT, MANY_LIGHT, REMEMBERED = 0.002, 0.25, 64


@dataclass(frozen=True, slots=True)
class Done(Generic[AnswerT]):
    """A row's answer, with its times."""

    answer: AnswerT
    prepare_s: float  # until its request's rows were made
    queue_s: float
    execute_s: float  # of the whole batch
    batch_rows: int = field(default=0, compare=False)
    batch_tasks: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What was dispatched, for the metrics."""

    rows: int
    tasks: int
    reason: str  # full | engine_free
    waits: Sequence[float] = field(default=(), compare=False)  # of each request, in seconds


@dataclass(slots=True, eq=False)
class _Request(Generic[RowT, AnswerT]):
    ask: Ask
    since: float
    certain: bool  # nothing was before it when it came: no forecast may refuse it
    expected_s: float  # of making its rows
    future: asyncio.Future[list[Done[AnswerT]]]
    turn: Turn | None = None  # in which its rows are made
    rows: Sequence[RowT] = ()
    making_s: float = 0.0  # spent, without waiting for its turn
    queued: float = math.inf  # when its rows were
    light: bool = False  # of a task that has less than its share
    making: bool = True
    waiting: bool = False


class _Batch(Generic[RowT, AnswerT]):
    """A batch on its way to be full."""

    def __init__(self, limit: int, free_rows: Callable[[int], int]) -> None:
        self._limit = limit  # rows
        self._free_rows = free_rows
        self._light_rows = 0
        self.requests: list[_Request[RowT, AnswerT]] = []
        self.rows = 0
        self.work = 0.0

    @property
    def full(self) -> bool:
        """Whether no further row may join."""
        return self.rows >= self._limit

    def has_room(self, request: _Request[RowT, AnswerT]) -> bool:
        """Whether it may join without making it too large, or a light task's wait long."""
        rows = self.rows + len(request.rows)
        if not self.requests:
            return True
        if self._light_rows and not request.light and rows > self._free_rows(self._light_rows):
            return False
        return rows <= self._limit

    def add(self, request: _Request[RowT, AnswerT]) -> None:
        """Joins it."""
        self.requests.append(request)
        self.rows += len(request.rows)
        self.work += request.ask.work
        self._light_rows += len(request.rows) if request.light else 0


class Batcher(Generic[RowT, AnswerT]):
    """Queues in front of one engine thread; requests come from one event loop's thread."""

    def __init__(
        self,
        run: Callable[[Sequence[RowT]], Sequence[AnswerT]],
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[BatchReport], None] = lambda _: None,
    ) -> None:
        """`run` answers rows in order; it is called from one thread only."""
        self._run = run
        self._clock = clock
        self._report = report
        self._pace = Pace(limits.batch_rows)
        self._admission = Admission(limits, self._pace)
        self._queue = FairQueue[_Request[RowT, AnswerT]]()
        self._changed = threading.Condition()
        self._waiting = 0  # rows
        self._waiting_work = 0.0
        self._light_share = 0.0  # of the last requests that ran
        self._busy_until: float | None = None  # forecast, while a batch runs
        self._free_since = math.inf  # end of the batch that this one followed without a pause
        self._stopping = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Rows waiting."""
        return self._waiting

    def check(self, ask: Ask) -> None:
        """Raises TaskQueueFull or Unavailable as `submit` would now, before a body is read."""
        with self._changed:
            self._check(ask)

    def _check(self, ask: Ask) -> bool:
        """Whether the engine is all free for it."""
        if self._stopping:
            raise _stopping()
        return self._admission.check(ask, self._clock(), self._busy_until)

    def submit(
        self, ask: Ask, make: Make[RowT], threads: Threads
    ) -> asyncio.Future[list[Done[AnswerT]]]:
        """Queues the rows that `make` makes in the threads; they run in one batch.

        `make` is called again while it answers None: each call is a piece of the work, between
        which others have their turn. One row for each task of the Ask, no more than fit into a
        batch. They have their place in the queue from now on: raises as `check` does. The future
        may raise what `make` does, DeadlineExceeded, InternalError or Unavailable. The caller
        cancels it when the deadline passes: what has not begun is dropped, and takes no more room.
        """
        future = asyncio.get_running_loop().create_future()
        with self._changed:
            certain = self._check(ask)
            expected_s = self._admission.enter(ask)
            request = _Request[RowT, AnswerT](ask, self._clock(), certain, expected_s, future)
            request.turn = threads.submit(ask, partial(self._make, request, make))
        future.add_done_callback(partial(self._forget, request))
        return future

    def _make(self, request: _Request[RowT, AnswerT], make: Make[RowT]) -> bool:
        """In a thread: makes a piece of a request's rows, or queues them; whether there is more."""
        try:
            if request.making and not self._stopping:
                now = self._clock()
                if request.ask.deadline < now:
                    raise DeadlineExceeded(
                        f"the deadline passed, after {now - request.since:.3f} s of decoding"
                    )
                rows = make()
                request.making_s += self._clock() - now
                if rows is None:
                    return request.making
            else:
                rows = ()
            with self._changed:
                if self._stopping:
                    raise _stopping()
                if request.making:  # else cancelled meanwhile
                    self._enqueue(request, rows)
        except GatewayError as error:
            # Its frames hold the image, and who holds the error.
            error.__context__ = None
            self._fail(request, error.with_traceback(None))
        except Exception:
            logger.exception("event=request_failed task=%s", request.ask.tasks[0])
            self._fail(request, InternalError("the image could not be prepared"))
        return False

    def _enqueue(self, request: _Request[RowT, AnswerT], rows: Sequence[RowT]) -> None:
        request.queued, request.rows, request.waiting = self._clock(), rows, True
        self._made(request, request.making_s)
        request.light = self._queue.push(request)
        self._waiting += len(rows)
        self._waiting_work += request.ask.work
        self._changed.notify()

    def _made(self, request: _Request[RowT, AnswerT], seconds: float | None) -> None:
        request.making = False
        self._admission.decoded(request.ask, request.expected_s, seconds)

    def _fail(self, request: _Request[RowT, AnswerT], error: GatewayError) -> None:
        with self._changed:
            if not request.making:
                return
            self._made(request, None)
            self._admission.leave(request.ask)
        _settle([(request, error)])

    def _leave(self, request: _Request[RowT, AnswerT]) -> None:
        request.waiting = False
        self._waiting -= len(request.rows)
        self._waiting_work = self._waiting_work - request.ask.work if self._waiting else 0.0
        self._admission.leave(request.ask)

    def _forget(
        self, request: _Request[RowT, AnswerT], future: asyncio.Future[list[Done[AnswerT]]]
    ) -> None:
        """A cancelled request takes no room and no memory; what is left of it is dropped later."""
        if not future.cancelled():
            return
        assert request.turn is not None
        request.turn.cancel()
        with self._changed:
            if request.making:
                self._made(request, None)
                self._admission.leave(request.ask)
            elif request.waiting:
                self._leave(request)
                request.rows = ()

    def step(self, timeout_s: float | None = None) -> bool:
        """Waits for rows (at most `timeout_s`), runs one batch, answers it; False if none ran."""
        with self._changed:
            if not self._waiting:
                self._free_since = math.inf
                self._changed.wait_for(lambda: self._waiting > 0 or self._stopping, timeout_s)
            if self._stopping or not self._waiting:
                return False
            started = self._clock()
            batch, late = self._take(started)
            if batch.requests:
                self._busy_until = started + self._pace.seconds(batch.rows, batch.work)
        _settle([(request, _too_late(request, started)) for request in late])
        if not batch.requests:
            return False
        tasks = len({task for request in batch.requests for task in request.ask.tasks})
        waits = [started - request.queued for request in batch.requests]
        reason = "full" if batch.full else "engine_free"
        self._report(BatchReport(batch.rows, tasks, reason, waits))
        outcomes = self._outcomes(batch, started)
        _settle(outcomes)
        return True

    def _take(self, now: float) -> tuple[_Batch[RowT, AnswerT], list[_Request[RowT, AnswerT]]]:
        """The next batch, and what the engine cannot answer in time any more."""
        considerate = FEW_LIGHT < self._light_share < MANY_LIGHT and self._admission.flooded
        limit = self._pace.limit(self._waiting, considerate=considerate)
        batch: _Batch[RowT, AnswerT] = _Batch(limit, self._pace.free_rows)
        late: list[_Request[RowT, AnswerT]] = []
        passed: list[_Request[RowT, AnswerT]] = []
        # As if the batch became as large as usual: small batches for urgent requests would cost
        # throughput when there is least to spare. Not as large as a trial's: of that size nothing
        # is known, or an old pause, and what it would refuse is what would show better.
        rows = min(limit, self._pace.usual_rows, self._waiting)
        ends = now + self._pace.seconds(rows, self._waiting_work * rows / self._waiting)
        while not batch.full and len(passed) < LOOK_PAST and (request := self._queue.pop()):
            if not request.waiting:  # cancelled
                self._queue.drop(request)
            elif request.ask.deadline < (now if request.certain else ends):
                self._queue.drop(request)
                self._leave(request)
                late.append(request)
            elif batch.has_room(request):
                self._queue.charge(request)
                self._leave(request)
                batch.add(request)
                self._light_share += (request.light - self._light_share) / REMEMBERED
            else:
                passed.append(request)
        for request in passed:
            self._queue.put_back(request)
        return batch, late

    def _outcomes(
        self, batch: _Batch[RowT, AnswerT], started: float
    ) -> list[tuple[_Request[RowT, AnswerT], _Outcome[AnswerT]]]:
        """Runs it. One bad row must not fail its batch mates: then each request runs alone."""
        outcomes: list[tuple[_Request[RowT, AnswerT], _Outcome[AnswerT]]]
        try:
            answers = self._run([row for request in batch.requests for row in request.rows])
            ended = self._clock()
            outcomes = list(_split(batch.requests, answers, started, ended))
        except Exception:
            logger.exception("event=batch_failed rows=%d retried=one_by_one", batch.rows)
            outcomes = [(request, self._alone(request, started)) for request in batch.requests]
            with self._changed:
                self._busy_until, self._free_since = None, math.inf
            return outcomes
        with self._changed:
            self._busy_until = None
            self._pace.note(batch.rows, batch.work, ended - min(started, self._free_since))
            self._free_since = ended
        return outcomes

    def _alone(self, request: _Request[RowT, AnswerT], started: float) -> _Outcome[AnswerT]:
        try:
            answers = self._run(request.rows)
            return next(_split([request], answers, started, self._clock()))[1]
        except Exception as error:
            logger.error("event=request_failed task=%s error=%r", request.ask.tasks[0], error)
            return InternalError("the engine failed on this image")

    @property
    def alive(self) -> bool:
        """Whether the engine thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Starts the engine thread."""
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stopping:
            self.step()

    def stop(self) -> None:
        """Finishes the running batch, refuses what waits, ends the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        refused: list[_Request[RowT, AnswerT]] = []
        with self._changed:
            while request := self._queue.pop():
                self._queue.drop(request)
                if request.waiting:
                    self._leave(request)
                    refused.append(request)
        _settle([(request, _stopping()) for request in refused])


_Outcome = GatewayError | list[Done[AnswerT]]


def _split(
    requests: Sequence[_Request[RowT, AnswerT]],
    answers: Sequence[AnswerT],
    started: float,
    ended: float,
) -> Iterator[tuple[_Request[RowT, AnswerT], _Outcome[AnswerT]]]:
    """Each request's part of the answers."""
    rest = iter(answers)
    tasks = len({task for request in requests for task in request.ask.tasks})
    for request in requests:
        times = (request.queued - request.since, started - request.queued, ended - started)
        facts = (len(answers), tasks)
        yield request, [Done(next(rest), *times, *facts) for _ in request.rows]


def _settle(
    outcomes: Sequence[tuple[_Request[RowT, AnswerT], _Outcome[AnswerT]]],
) -> None:
    """Hands outcomes over to the event loop, which is woken up once for all of them."""
    if outcomes:
        loop = outcomes[0][0].future.get_loop()
        loop.call_soon_threadsafe(_set, outcomes)


def _set(outcomes: Sequence[tuple[_Request[RowT, AnswerT], _Outcome[AnswerT]]]) -> None:
    for request, outcome in outcomes:
        if request.future.done():  # cancelled while it ran
            continue
        if isinstance(outcome, GatewayError):
            request.future.set_exception(outcome)
        else:
            request.future.set_result(outcome)


def _too_late(request: _Request[RowT, AnswerT], now: float) -> DeadlineExceeded:
    passed = "passed" if request.ask.deadline < now else "would pass before the answer"
    return DeadlineExceeded(f"the deadline {passed}, after {now - request.queued:.3f} s waiting")


def _stopping() -> Unavailable:
    return Unavailable("the gateway is stopping", retry_after_s=RETRY_AFTER_S)
