"""The batcher on a fake clock with a fake engine, one step at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching import Batcher, BatchReport, Done, Limits
from service.errors import DeadlineExceeded, InternalError, TaskQueueFull, Unavailable
from tests.service.waiting import eventually

FAR = 1e9


@dataclass
class Clock:
    """A clock that stands still until told otherwise."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Recorder:
    """An engine that answers each row with itself, and fails on rows that are negative."""

    batches: list[list[int]] = field(default_factory=list)

    def __call__(self, rows: Sequence[int]) -> list[int]:
        self.batches.append(list(rows))
        if any(row < 0 for row in rows):
            raise RuntimeError("negative row")
        return list(rows)


def batcher(
    run: Recorder, clock: Clock | None = None, *, rows: int = 4, per_task: int = 8, total: int = 16
) -> Batcher[int, int]:
    return Batcher(run, Limits(rows, per_task, total), clock=clock or Clock())


def test_answers_what_waits_and_says_how_long_it_took() -> None:
    clock = Clock()
    b = batcher(Recorder(), clock)
    clock.now = 10.0
    future = b.submit("a", 7, cost=1.0, deadline=FAR)
    clock.now = 10.5
    assert b.step()
    assert future.result() == Done(7, 0.5, 0.0)
    assert len(b) == 0
    assert not b.step(timeout_s=0)


def test_reports_why_each_batch_was_dispatched() -> None:
    reports: list[BatchReport] = []
    b = Batcher[int, int](Recorder(), Limits(2, 8, 8), clock=Clock(), report=reports.append)
    for row, task in enumerate("aba"):
        b.submit(task, row, cost=1.0, deadline=FAR)
    b.step()
    b.step()
    assert reports == [BatchReport(2, 2, "full"), BatchReport(1, 1, "engine_free")]


def test_a_late_row_is_refused_and_never_run() -> None:
    clock, run = Clock(), Recorder()
    b = batcher(run, clock)
    late = b.submit("a", 1, cost=1.0, deadline=5.0)
    intime = b.submit("a", 2, cost=1.0, deadline=5.1)
    clock.now = 5.0
    b.step()
    assert isinstance(late.exception(), DeadlineExceeded)
    assert intime.result().answer == 2
    assert run.batches == [[2]]


def test_a_cancelled_row_is_never_run() -> None:
    run = Recorder()
    b = batcher(run)
    gone = b.submit("a", 1, cost=1.0, deadline=FAR)
    b.submit("a", 2, cost=1.0, deadline=FAR)
    assert gone.cancel()
    b.step()
    assert run.batches == [[2]]


def test_one_bad_row_fails_alone() -> None:
    run = Recorder()
    b = batcher(run)
    futures = [b.submit("a", row, cost=1.0, deadline=FAR) for row in (1, -1, 2)]
    b.step()
    assert [futures[0].result().answer, futures[2].result().answer] == [1, 2]
    assert isinstance(futures[1].exception(), InternalError)
    assert run.batches == [[1, -1, 2], [1], [-1], [2]]


def test_a_full_queue_of_one_task_leaves_room_for_others() -> None:
    b = batcher(Recorder(), per_task=2, total=8)
    for row in range(2):
        b.submit("flood", row, cost=1.0, deadline=FAR)
    with pytest.raises(TaskQueueFull) as refused:
        b.submit("flood", 2, cost=1.0, deadline=FAR)
    assert refused.value.retry_after_s
    with pytest.raises(TaskQueueFull):
        b.check("flood")
    b.check("light")
    b.submit("light", 3, cost=1.0, deadline=FAR)


def test_overload_is_refused_for_everybody() -> None:
    b = batcher(Recorder(), per_task=2, total=3)
    for task in "aab":
        b.submit(task, 0, cost=1.0, deadline=FAR)
    with pytest.raises(Unavailable):
        b.submit("c", 0, cost=1.0, deadline=FAR)


def test_dead_rows_take_no_room() -> None:
    clock = Clock()
    b = batcher(Recorder(), clock, per_task=2, total=8)
    late = b.submit("a", 0, cost=1.0, deadline=1.0)
    b.submit("a", 1, cost=1.0, deadline=FAR).cancel()
    clock.now = 2.0
    b.submit("a", 2, cost=1.0, deadline=FAR)
    assert isinstance(late.exception(), DeadlineExceeded)
    assert len(b) == 1


def test_a_light_task_does_not_wait_behind_a_flood() -> None:
    run = Recorder()
    b = batcher(run, rows=4, per_task=100, total=200)
    for row in range(50):
        b.submit("flood", row, cost=1.0, deadline=FAR)
    b.step()
    b.submit("light", 1000, cost=1.0, deadline=FAR)
    b.step()
    assert 1000 in run.batches[1]


def test_shares_follow_work_not_the_number_of_rows() -> None:
    run = Recorder()
    b = batcher(run, rows=4, per_task=100, total=200)
    for row in range(60):
        b.submit("small", row, cost=1.0, deadline=FAR)
        b.submit("large", 1000 + row, cost=3.0, deadline=FAR)
    for _ in range(10):
        b.step()
    served = Counter("large" if row >= 1000 else "small" for batch in run.batches for row in batch)
    assert served["small"] == pytest.approx(30, abs=2)
    assert served["large"] == pytest.approx(10, abs=2)


@settings(deadline=None, max_examples=200)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(
                st.just("submit"), st.sampled_from("abc"), st.sampled_from([0.5, 1.0, 4.0]),
                st.sampled_from([1.0, 3.0, FAR]),
            ),
            st.tuples(st.just("cancel"), st.integers(0, 30)),
            st.tuples(st.just("wait"), st.sampled_from([0.5, 2.0])),
            st.tuples(st.just("step")),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_every_row_is_answered_once_in_order_and_within_its_limits(steps: list[tuple]) -> None:
    story = Story()
    for name, *arguments in steps:
        getattr(story, name)(*arguments)
        assert 0 <= len(story.batcher) <= story.limits.total
    while len(story.batcher):
        story.step()
    ran = [row for batch in story.run.batches for row in batch]
    assert len(ran) == len(set(ran))
    assert all(len(batch) <= story.limits.batch_rows for batch in story.run.batches)
    assert all(future.done() for future in story.futures)
    for row, future in enumerate(story.futures):
        answered = not future.cancelled() and future.exception() is None
        assert answered == (row in ran)
    for task in "abc":
        mine = [row for row in ran if story.task_of[row] == task]
        assert mine == sorted(mine)


class Story:
    """What hypothesis may do to a batcher."""

    def __init__(self) -> None:
        self.clock, self.run = Clock(), Recorder()
        self.limits = Limits(batch_rows=3, per_task=4, total=6)
        self.batcher = Batcher[int, int](self.run, self.limits, clock=self.clock)
        self.futures: list[Future[Done[int]]] = []
        self.task_of: list[str] = []

    def submit(self, task: str, cost: float, left_s: float) -> None:
        deadline = self.clock.now + left_s
        try:
            future = self.batcher.submit(task, len(self.futures), cost=cost, deadline=deadline)
        except (TaskQueueFull, Unavailable):
            assert len(self.batcher) >= min(self.limits.per_task, self.limits.total)
        else:
            self.futures.append(future)
            self.task_of.append(task)

    def cancel(self, index: int) -> None:
        if index < len(self.futures):
            self.futures[index].cancel()

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    def step(self) -> None:
        self.batcher.step(timeout_s=0)


@settings(deadline=None)
@given(
    costs=st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 10.0), min_size=2),
    batches=st.integers(1, 20),
)
def test_backlogged_tasks_get_equal_work(costs: dict[str, float], batches: int) -> None:
    """Start-time fair queueing: shares differ by no more than one row of each."""
    run = Recorder()
    b = batcher(run, rows=4, per_task=1000, total=10000)
    tasks = sorted(costs)
    for _ in range(100):
        for index, task in enumerate(tasks):
            b.submit(task, index, cost=costs[task], deadline=FAR)
    for _ in range(batches):
        b.step()
    ran = Counter(row for batch in run.batches for row in batch)
    work = {task: ran[index] * costs[task] for index, task in enumerate(tasks)}
    if all(ran[index] < 100 for index in range(len(tasks))):
        for one in tasks:
            for other in tasks:
                assert work[one] - work[other] <= costs[one] + costs[other] + 1e-9


def test_the_thread_works_and_stops() -> None:
    release = threading.Event()

    def slow(rows: Sequence[int]) -> list[int]:
        release.wait(60)
        return list(rows)

    b = Batcher[int, int](slow, Limits(1, 8, 8))
    b.start()
    assert b.alive
    running = b.submit("a", 1, cost=1.0, deadline=FAR)
    eventually(running.running)
    waiting = b.submit("a", 2, cost=1.0, deadline=FAR)
    stopper = threading.Thread(target=b.stop)
    stopper.start()
    with pytest.raises(Unavailable):
        eventually(lambda: b.submit("a", 3, cost=1.0, deadline=FAR).cancelled())
    release.set()
    stopper.join(60)
    assert running.result(60).answer == 1
    assert isinstance(waiting.exception(60), Unavailable)
    assert not b.alive


def test_an_idle_batcher_keeps_no_row_alive() -> None:
    """A row holds its path, and a path its components' memory."""
    import weakref

    class Big:
        """Something that can be watched."""

    b = Batcher[Big, int](lambda rows: [1 for _ in rows], Limits(4, 8, 8))
    b.start()
    row = Big()
    gone = weakref.ref(row)
    b.submit("a", row, cost=1.0, deadline=FAR).result(60)
    del row
    eventually(lambda: gone() is None)
    b.stop()
