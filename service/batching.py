"""Which waiting rows run next: bounded fair queues, deadlines, cancellation; no HTTP, no JAX.

Work-conserving: whenever the engine is free it takes what waits, up to a batch. Fair between tasks
by estimated work: start-time fair queueing (Goyal et al. 1996), where each task's queue has a tag
in virtual time that advances by the cost of the rows taken from it, and the lowest tag goes first.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.errors import DeadlineExceeded, InternalError, TaskQueueFull, Unavailable

logger = logging.getLogger(__name__)
RowT = TypeVar("RowT")
AnswerT = TypeVar("AnswerT")
RETRY_AFTER_S = 1.0
SWEEP_EVERY_S = 0.02  # looking through full queues costs a millisecond


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait, and how much runs at once."""

    batch_rows: int
    per_task: int
    total: int


@dataclass(frozen=True, slots=True)
class Done(Generic[AnswerT]):
    """A row's answer, with its times."""

    answer: AnswerT
    queue_s: float
    execute_s: float  # of the whole batch


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What was dispatched, for the metrics."""

    rows: int
    tasks: int
    reason: str  # full | engine_free


@dataclass(slots=True, eq=False)
class _Waiting(Generic[RowT, AnswerT]):
    task: str
    row: RowT
    cost: float
    deadline: float
    arrived: float
    future: Future[Done[AnswerT]] = field(default_factory=Future)


class Batcher(Generic[RowT, AnswerT]):
    """Queues in front of one engine thread; `submit` from any thread."""

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
        self._limits = limits
        self._clock = clock
        self._report = report
        self._changed = threading.Condition()
        self._queues: dict[str, deque[_Waiting[RowT, AnswerT]]] = {}
        self._heap: list[tuple[float, int, str]] = []  # (tag, tie-break, task), one per queue
        self._finish: dict[str, float] = {}  # where each task's next tag starts at the earliest
        self._sequence = itertools.count()
        self._virtual = 0.0
        self._count = 0
        self._next_sweep = 0.0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Rows waiting."""
        return self._count

    def submit(
        self, task: str, row: RowT, *, cost: float, deadline: float
    ) -> Future[Done[AnswerT]]:
        """Queues a row; cancelling the future before it runs drops the row.

        `cost` is its estimated work in any unit, `deadline` a time of the clock. Raises
        TaskQueueFull, or Unavailable when all queues together are full or the gateway stops.
        """
        waiting = _Waiting[RowT, AnswerT](task, row, cost, deadline, self._clock())
        with self._changed:
            self._admit(task)
            queue = self._queues.get(task)
            if queue is None:
                queue = self._queues[task] = deque()
                tag = max(self._virtual, self._finish.get(task, 0.0))
                heapq.heappush(self._heap, (tag, next(self._sequence), task))
            queue.append(waiting)
            self._count += 1
            self._changed.notify()
        return waiting.future

    def check(self, task: str) -> None:
        """Raises as `submit` would now, so that a refused image need not be decoded first."""
        with self._changed:
            self._admit(task)

    def _admit(self, task: str) -> None:
        if self._stopping:
            raise Unavailable("the gateway is stopping", retry_after_s=RETRY_AFTER_S)
        if self._room(task) <= 0 and self._clock() >= self._next_sweep:
            self._next_sweep = self._clock() + SWEEP_EVERY_S
            self._drop_dead()  # cancelled and late rows take no room from live ones
        if len(self._queues.get(task, ())) >= self._limits.per_task:
            raise TaskQueueFull(
                f"{self._limits.per_task} requests for task {task!r} are waiting already",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._count >= self._limits.total:
            raise Unavailable(
                f"overloaded: {self._limits.total} requests are waiting already",
                retry_after_s=RETRY_AFTER_S,
            )

    def _room(self, task: str) -> int:
        own = self._limits.per_task - len(self._queues.get(task, ()))
        return min(own, self._limits.total - self._count)

    def _drop_dead(self) -> None:
        for task, queue in self._queues.items():
            alive = deque(w for w in queue if self._is_alive(w))
            self._count -= len(queue) - len(alive)
            self._queues[task] = alive

    def _is_alive(self, waiting: _Waiting[RowT, AnswerT]) -> bool:
        if waiting.future.cancelled():
            return False
        if waiting.deadline > self._clock():
            return True
        if waiting.future.set_running_or_notify_cancel():
            waited = self._clock() - waiting.arrived
            error = DeadlineExceeded(f"the deadline passed after {waited:.3f} s in the queue")
            waiting.future.set_exception(error)
        return False

    def _take(self) -> list[_Waiting[RowT, AnswerT]]:
        """The next batch: by lowest tag, without dead rows."""
        batch: list[_Waiting[RowT, AnswerT]] = []
        while self._heap and len(batch) < self._limits.batch_rows:
            tag, _, task = heapq.heappop(self._heap)
            queue = self._queues[task]
            self._virtual = max(self._virtual, tag)
            waiting = None
            while queue and waiting is None:
                candidate = queue.popleft()
                self._count -= 1
                if self._is_alive(candidate) and candidate.future.set_running_or_notify_cancel():
                    waiting = candidate
            if waiting is not None:
                batch.append(waiting)
                tag += waiting.cost
            if queue:
                heapq.heappush(self._heap, (tag, next(self._sequence), task))
            else:
                del self._queues[task]
                self._finish[task] = tag
        if not self._heap:  # all idle: the past has no weight any more
            self._finish.clear()
            self._virtual = 0.0
        return batch

    def step(self, timeout_s: float | None = None) -> bool:
        """Waits for rows (at most `timeout_s`), runs one batch, answers it; False if none came."""
        with self._changed:
            self._changed.wait_for(lambda: self._count > 0 or self._stopping, timeout_s)
            batch = self._take()
            full = len(batch) == self._limits.batch_rows
        if not batch:
            return False
        tasks = len({waiting.task for waiting in batch})
        self._report(BatchReport(len(batch), tasks, "full" if full else "engine_free"))
        started = self._clock()
        try:
            answers = self._run([waiting.row for waiting in batch])
        except Exception:
            logger.exception("event=batch_failed rows=%d retried=one_by_one", len(batch))
            self._run_alone(batch, started)
            return True
        self._answer(batch, answers, started)
        return True

    def _run_alone(self, batch: Sequence[_Waiting[RowT, AnswerT]], started: float) -> None:
        """One bad row must not fail its batch mates."""
        for waiting in batch:
            try:
                answers = self._run([waiting.row])
            except Exception as error:
                logger.error("event=row_failed task=%s error=%r", waiting.task, error)
                waiting.future.set_exception(InternalError("the engine failed on this image"))
            else:
                self._answer([waiting], answers, started)

    def _answer(
        self,
        batch: Sequence[_Waiting[RowT, AnswerT]],
        answers: Sequence[AnswerT],
        started: float,
    ) -> None:
        execute_s = self._clock() - started
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.future.set_result(Done(answer, started - waiting.arrived, execute_s))

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
        for queue in self._queues.values():
            for waiting in queue:
                if waiting.future.set_running_or_notify_cancel():
                    waiting.future.set_exception(
                        Unavailable("the gateway is stopping", retry_after_s=RETRY_AFTER_S)
                    )
        self._queues.clear()
        self._heap.clear()
        self._count = 0
