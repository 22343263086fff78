"""From waiting requests to batches on the engine threads, and answers back to the event loop.

Each thread is a stream of batches. A free stream takes waiting rows at once, up to the size beyond
which larger batches gain nothing. While all waiting rows fit into each stream's next batch, their
order is that of arrival; else it is the fair queue's. No HTTP, no JAX.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from service.compute.admission import Admission, Limits
from service.compute.batch import Batch, BatchReport, Order, Rest, Shadows, Stream
from service.compute.cores import Cores, own_clock, seconds_of_others
from service.compute.decoders import Threads
from service.compute.fair_queue import Ask, FairQueue
from service.compute.priority import BATCH, give_way
from service.compute.running import Runner
from service.compute.submission import (
    Done,
    Outcome,
    State,
    Submission,
    settle,
    stopping,
    too_late,
)
from service.compute.throughput import Throughput
from service.compute.tuning import FEW_LIGHT, LOOK_PAST, MANY_LIGHT, REMEMBERED
from service.errors import DeadlineExceeded, GatewayError, InternalError
from service.request import Timings

__all__ = ["Ask", "BatchReport", "Batcher", "Done", "Limits"]
logger = logging.getLogger(__name__)
RowT = TypeVar("RowT")
AnswerT = TypeVar("AnswerT")
Make = Callable[[], Sequence[RowT] | None]  # a request's rows; None while there is more to do


class Batcher(Generic[RowT, AnswerT]):
    """Queues in front of the engine threads; requests come from one event loop's thread."""

    def __init__(
        self,
        run: Callable[[Sequence[RowT]], Sequence[AnswerT]],
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        cost_clock: Callable[[], float] | None = None,
        report: Callable[[BatchReport], None] = lambda _: None,
        delay: Callable[[float], float] = lambda _: 0.0,
        shadows: Shadows[RowT, AnswerT] | None = None,
    ) -> None:
        """`run` answers rows in order, in each stream's thread; `shadows` those with shadows.

        `cost_clock` says in that thread how much processor time it took; None: time passed.
        `delay` says how long an answer waits for the event loop.
        """
        self._limits = limits
        self._clock = clock
        self._runner = Runner(run, shadows, clock, cost_clock or clock)
        self._report = report
        self._throughput = Throughput(limits.batch_rows)
        self._admission = Admission(limits, self._throughput, delay)
        self._queue = FairQueue[Submission[RowT, AnswerT]]()
        self._lock = threading.RLock()
        self._waiting = 0  # rows
        self._waiting_work = 0.0
        self._light_share = 0.0  # of the last requests that ran
        self._streams = [Stream(threading.Condition(self._lock)) for _ in range(limits.streams)]
        self._cores = Cores(limits.streams, self._rest_s, self._admission.came)
        self._running = 0  # batches
        self._finishing = 0  # streams that compute for shadows
        self._stopping = False

    def __len__(self) -> int:
        """Rows waiting."""
        return self._waiting

    def waiting(self, patience_s: float) -> list[Submission[RowT, AnswerT]] | None:
        """Requests that wait, the oldest first; None where the lock is not free in time."""
        if not self._lock.acquire(timeout=patience_s):
            return None
        try:
            return self._queue.waiting()
        finally:
            self._lock.release()

    def missed(self) -> None:
        """Counts a request that was refused before anything was known of it."""
        with self._lock:
            self._admission.missed()

    @property
    def offered_s(self) -> tuple[float, float]:
        """Seconds that all requested work would take of the streams, and of the decoders."""
        return self._admission.offered_s, self._admission.offered_decode_s

    @property
    def streams(self) -> int:
        """How many batches may run at the same time while the process is as busy as now."""
        with self._lock:
            return self._cores.free(self._clock())

    def check(self, ask: Ask) -> None:
        """Raises TaskQueueFull or Unavailable as `submit` would now, before a body is read."""
        with self._lock:
            self._check(ask)

    def _check(self, ask: Ask) -> bool:
        """Whether a stream is free for it."""
        if self._stopping:
            raise stopping()
        now = self._clock()
        free, next_end = self._cores.free(now), None
        if self._running >= free:
            next_end = min(one.busy_until for one in self._streams if one.busy_until is not None)
        return self._admission.check(ask, now, next_end, free)

    def submit(
        self, ask: Ask, make: Make[RowT], threads: Threads, timings: Timings | None = None
    ) -> asyncio.Future[list[Done[AnswerT]]]:
        """Queues the rows that `make` makes in the threads; they run in one batch.

        `make` is called again while it returns None: each call is one piece of the work, and others
        have their turn between the pieces. It makes one row for each task of the Ask, no more than
        fit into a batch. They have their place in the queue from now on: raises as `check` does.
        The future may raise what `make` raises, DeadlineExceeded, InternalError or Unavailable. The
        caller cancels it at the deadline; what has not begun then is dropped and takes no room.
        `timings` get the times when the rows wait, run and have run.
        """
        future = asyncio.get_running_loop().create_future()
        with self._lock:
            certain = self._check(ask)
            expected_s = self._admission.enter(ask)
            request: Submission[RowT, AnswerT] = Submission(
                ask, self._clock(), certain, expected_s, future, timings or Timings()
            )
            request.turn = threads.submit(ask, partial(self._make, request, make))
        future.add_done_callback(partial(self._forget, request))
        return future

    def _make(self, request: Submission[RowT, AnswerT], make: Make[RowT]) -> bool:
        """In a thread: makes a piece of a request's rows, or queues them; whether more is to do."""
        try:
            if request.state is State.PREPARING and not self._stopping:
                now = self._clock()
                if request.ask.deadline < now:
                    raise DeadlineExceeded(
                        f"the deadline passed, after {now - request.since:.3f} s of decoding"
                    )
                rows = make()
                request.making_s += self._clock() - now
                if rows is None:
                    return request.state is State.PREPARING
            else:
                rows = ()
            with self._lock:
                if self._stopping:
                    raise stopping()
                if request.state is State.PREPARING:  # else cancelled meanwhile
                    self._enqueue(request, rows)
        except GatewayError as error:
            # Its frames hold the image, and who holds the error.
            error.__context__ = None
            self._fail(request, error.with_traceback(None))
        except Exception:
            logger.exception("event=request_failed task=%s", request.ask.tasks[0])
            self._fail(request, InternalError("the image could not be prepared"))
        return False

    def _enqueue(self, request: Submission[RowT, AnswerT], rows: Sequence[RowT]) -> None:
        request.timings.queued = self._clock()
        request.rows, request.state = rows, State.WAITING
        self._admission.decoded(request.ask, request.expected_s, request.making_s)
        request.light = self._queue.push(request)
        self._waiting += len(rows)
        self._waiting_work += request.ask.work
        if not self._may_run:
            return
        # Always the first that is idle: what it used last is in its core's cache.
        for stream in self._streams:
            if stream.idle:
                stream.idle = False
                stream.changed.notify()
                break

    def _fail(self, request: Submission[RowT, AnswerT], error: GatewayError) -> None:
        with self._lock:
            if request.state is not State.PREPARING:
                return
            self._leave_unmade(request)
        request.timings.ran = self._clock()
        settle([(request, error)])

    def _leave_unmade(self, request: Submission[RowT, AnswerT]) -> None:
        request.state = State.DROPPED
        self._admission.decoded(request.ask, request.expected_s, None)
        self._admission.leave(request.ask)

    def _leave(self, request: Submission[RowT, AnswerT], state: State) -> None:
        """It waits no more."""
        request.state = state
        self._waiting -= len(request.rows)
        self._waiting_work = self._waiting_work - request.ask.work if self._waiting else 0.0
        self._admission.leave(request.ask)

    def _forget(
        self, request: Submission[RowT, AnswerT], future: asyncio.Future[list[Done[AnswerT]]]
    ) -> None:
        """A cancelled request takes no room and no memory; what is left of it is dropped later."""
        if not future.cancelled():
            return
        assert request.turn is not None
        request.turn.cancel()
        with self._lock:
            if request.state is State.PREPARING:
                self._leave_unmade(request)
            elif request.state is State.WAITING:
                self._leave(request, State.DROPPED)
                request.rows = ()

    def step(self, timeout_s: float | None = None, stream: int = 0) -> bool:
        """Waits for rows (at most `timeout_s`), runs one batch, answers it; False if none ran."""
        mine = self._streams[stream]
        with self._lock:
            if not self._may_run:
                mine.free_since = math.inf
                self._wait(mine, timeout_s)
            if self._stopping or not self._may_run:
                return False
            started = self._clock()
            batch, late = self._take(started)
            if batch.requests:
                self._running += 1
                mine.busy_until = started + self._throughput.seconds(batch.rows, batch.work)
        settle([(request, too_late(request, started)) for request in late])
        if not batch.requests:
            return False
        tasks = len({task for request in batch.requests for task in request.ask.tasks})
        waits = [started - request.timings.queued for request in batch.requests]
        reason = "target_rows" if batch.full else "all_waiting"
        self._report(BatchReport(batch.rows, tasks, reason, waits))
        settle(self._run(mine, batch, started))
        if batch.rest is not None:
            self._finish(mine, batch.rest)
        return True

    def _finish(self, mine: Stream, rest: Rest) -> None:
        """Does what is left for shadows, while no row waits that no other stream is free for."""

        def go_on() -> bool:
            taken = not self._running and self._finishing < len(self._streams)
            return not self._stopping and (taken or not self._waiting)

        with self._lock:
            self._finishing += 1
        rest(go_on)
        with self._lock:
            self._finishing -= 1
            mine.free_since = math.inf  # the time since then was no batch's

    @property
    def _may_run(self) -> bool:
        """Whether rows wait; while other batches run, also whether enough do and a core is free."""
        if not self._running or not self._waiting:
            return bool(self._waiting)
        enough = self._waiting >= self._throughput.enough_rows
        return enough and self._running < self._cores.free(self._clock())

    def _rest_s(self) -> float:
        return seconds_of_others(one.clock for one in self._streams if one.clock is not None)

    def _wait(self, mine: Stream, timeout_s: float | None) -> None:
        """For rows and a core, with the lock held."""
        while not self._may_run and not self._stopping:
            mine.idle = True  # also if another stream was quicker
            if not mine.changed.wait(timeout_s):
                break
        mine.idle = False

    def _order(self) -> Order:
        if FEW_LIGHT < self._light_share < MANY_LIGHT and self._admission.flooded:
            return Order.CONSIDERATE
        all_fit = self._waiting <= self._limits.batch_rows * len(self._streams)
        return Order.ARRIVAL if all_fit else Order.FAIR

    def _take(self, now: float) -> tuple[Batch[RowT, AnswerT], list[Submission[RowT, AnswerT]]]:
        """The next batch, and the requests that the engine can no longer answer in time."""
        order = self._order()
        pop = self._queue.pop_oldest if order is Order.ARRIVAL else self._queue.pop
        limit = self._throughput.limit(self._waiting, considerate=order is Order.CONSIDERATE)
        batch: Batch[RowT, AnswerT] = Batch(limit, self._throughput.free_rows)
        late: list[Submission[RowT, AnswerT]] = []
        passed: list[Submission[RowT, AnswerT]] = []
        # Assumes a batch of the usual size: small batches for urgent requests would cost throughput
        # when it is scarcest. Not of a trial's size: nothing is known of that, or only an old
        # pause; to refuse requests because of it would keep it from being measured.
        rows = min(limit, self._throughput.usual_rows, self._waiting)
        ends = now + self._throughput.seconds(rows, self._waiting_work * rows / self._waiting)
        while not batch.full and len(passed) < LOOK_PAST and (request := pop()):
            if request.state is not State.WAITING:  # cancelled
                self._queue.drop(request)
            elif request.ask.deadline < (now if request.certain else ends):
                self._queue.drop(request)
                self._leave(request, State.DROPPED)
                request.timings.ran = now
                late.append(request)
            elif batch.has_room(request):
                self._queue.charge(request)
                self._leave(request, State.RUNNING)
                request.timings.running = now
                batch.add(request)
                self._light_share += (request.light - self._light_share) / REMEMBERED
            else:
                passed.append(request)
        for request in passed:
            self._queue.put_back(request)
        return batch, late

    def _run(
        self, stream: Stream, batch: Batch[RowT, AnswerT], started: float
    ) -> list[tuple[Submission[RowT, AnswerT], Outcome[AnswerT]]]:
        ran = self._runner.batch(batch, others_wait=self._waiting > 0)
        with self._lock:
            self._running -= 1
            stream.busy_until = None
            if ran.cost_s is None:
                stream.free_since = math.inf
                return ran.outcomes
            passed_s = ran.ended - min(started, stream.free_since)
            self._throughput.note(batch.rows, batch.work, passed_s, ran.cost_s)
            stream.free_since = ran.ended
        return ran.outcomes

    @property
    def alive(self) -> bool:
        """Whether all engine threads run."""
        threads = [one.thread for one in self._streams]
        return all(thread is not None and thread.is_alive() for thread in threads)

    def start(self) -> None:
        """Starts the engine threads."""
        for number, stream in enumerate(self._streams):
            name = f"engine_{number}"
            thread = threading.Thread(target=self._loop, args=(number,), name=name, daemon=True)
            stream.thread = thread
            thread.start()

    def _loop(self, stream: int) -> None:
        give_way(BATCH)
        self._streams[stream].clock = own_clock()
        while not self._stopping:
            self.step(stream=stream)

    def stop(self) -> None:
        """Finishes the running batches, refuses what waits, ends the threads."""
        with self._lock:
            self._stopping = True
            for stream in self._streams:
                stream.changed.notify()
        for stream in self._streams:
            if stream.thread is not None:
                stream.thread.join()
        refused: list[Submission[RowT, AnswerT]] = []
        with self._lock:
            while request := self._queue.pop():
                self._queue.drop(request)
                if request.state is State.WAITING:
                    self._leave(request, State.DROPPED)
                    refused.append(request)
        settle([(request, stopping()) for request in refused])
