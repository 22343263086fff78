"""The batcher on a fake clock with a fake engine, one step at a time."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from service.compute.batching import Ask, Batcher, Done, Limits
from service.errors import DeadlineExceeded, InternalError, TaskQueueFull, Unavailable
from service.request import Timings
from tests.service.compute.batchers import FAR, Answer, Bench, Later, soon, story
from tests.service.simulation import AtOnce
from tests.service.waiting import PATIENCE_S


@story
async def test_answers_what_waits_and_says_how_long_it_took() -> None:
    b = Bench()
    b.clock.now, b.run.seconds = 10.0, 2.0
    timings = Timings(10.0)
    timings.enter("decode")
    timings.marks[-1] = ("decode", 10.0)
    answer = b.submit([7, 8], "ab", timings=timings)
    b.clock.now = 10.5
    assert await b.step()
    assert answer.result() == [Done(7), Done(8)]
    timings.follow()
    found = timings.seconds(13.0)
    assert {stage: seconds for stage, seconds in found.items() if seconds} == {
        **{"queue": 0.5, "execute": 2.0, "answer": 0.5},
        "total": 3.0,
    }
    assert len(b.batcher) == 0
    assert not await b.step()


@story
async def test_reports_why_each_batch_was_dispatched() -> None:
    b = Bench(rows=2)
    for row, task in enumerate("aba"):
        b.submit([row], task)
    await b.drain()
    reports = [(report.rows, report.tasks, report.reason) for report in b.reports]
    assert reports == [(2, 2, "target_rows"), (1, 1, "all_waiting")]


@story
async def test_the_rows_of_a_request_run_in_one_batch() -> None:
    b = Bench()
    b.submit([1, 2, 3], "aaa")
    b.submit([4, 5], "bb")
    b.submit([6], "c")
    await b.drain()
    assert b.run.batches == [[1, 2, 3, 6], [4, 5]]


@story
async def test_the_loop_is_woken_up_once_for_a_batch() -> None:
    b, loop, calls = Bench(), asyncio.get_running_loop(), 0
    answers = [b.submit([row], "a") for row in range(4)]
    real = loop.call_soon_threadsafe

    def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        return real(*arguments, **more)

    loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
    await b.step()
    assert calls == 1
    assert all(answer.done() for answer in answers)


@story
async def test_a_late_request_is_refused_and_never_run() -> None:
    b = Bench()
    b.submit([0], "b")  # the next ones do not find an idle engine
    late, in_time = b.submit([1], "a", 5.0), b.submit([2], "a", 5.1)
    b.clock.now = 5.05
    await b.drain()
    assert isinstance(late.exception(), DeadlineExceeded)
    assert in_time.result()[0].answer == 2
    assert [1] not in b.run.batches


@story
async def test_where_all_that_waits_is_late_no_batch_runs_and_the_stream_stays_free() -> None:
    b = Bench()
    late = b.submit([1], "a", 5.0)
    b.clock.now = 5.05
    assert not await b.step()
    assert isinstance(late.exception(), DeadlineExceeded)
    assert b.run.batches == [] and b.reports == []
    b.submit([2], "a")
    assert await b.step()
    assert b.run.batches == [[2]]


@story
async def test_a_request_that_would_be_late_is_not_begun() -> None:
    b = Bench()
    b.run.seconds = 1.0
    for _ in range(30):  # until it is known how long a batch takes
        b.submit([0, 1], "bb")
        await b.drain()
    start = b.clock.now
    b.submit([1], "b")
    doomed = b.submit([2], "a", start + 10.0)
    b.clock.now = start + 9.5
    await b.drain()
    assert isinstance(doomed.exception(), DeadlineExceeded)
    assert b.run.batches[-1] == [1]


@story
async def test_forecasts_refuse_what_would_come_too_late_and_say_when_to_come_back() -> None:
    b = Bench(per_task=1000, total=1000)
    b.run.seconds = 1.0
    for row in range(160):
        b.submit([row], "ab"[row % 2])
    while len(b.batcher) > 40:
        await b.step()
    deadline = b.clock.now + 5.0
    with pytest.raises(Unavailable, match="all waiting work") as refused:
        b.submit([0], "a", deadline)
    assert refused.value.retry_after_s == pytest.approx(11, abs=2)  # 40 rows, four a second
    b.submit([0], "c", deadline)  # its share is free
    b.submit([0], "a", deadline, priority=1)  # so is that of this level
    await b.drain()
    b.submit([0], "a", b.clock.now + 0.1)  # shorter than any batch, but the engine is idle
    await b.drain()


@story
async def test_a_slow_start_is_forgotten() -> None:
    b = Bench()
    b.run.seconds = 1000.0
    b.submit([0], "a")
    await b.drain()
    b.run.seconds = 0.01
    for _ in range(3):
        b.submit([0], "a", b.clock.now + 1.0)  # idle: never refused
        await b.drain()
    b.submit([0], "a")
    b.submit([0], "b", b.clock.now + 1.0)
    await b.drain()


@story
async def test_a_cancelled_request_is_never_run_and_gives_up_its_room_at_once() -> None:
    b = Bench(per_task=2)
    gone = b.submit([1], "a")
    b.submit([2], "a")
    with pytest.raises(TaskQueueFull):
        b.submit([3], "a")
    assert gone.cancel()
    await asyncio.sleep(0)
    assert len(b.batcher) == 1
    b.submit([3], "a")
    await b.drain()
    assert b.run.batches == [[2, 3]]


@story
async def test_an_answer_for_nobody_harms_nobody() -> None:
    b = Bench()
    answers = [b.submit([row], "a") for row in range(2)]
    b.batcher.step(0)
    answers[0].cancel()  # while the answers are on their way
    await asyncio.sleep(0)
    assert answers[1].result()[0].answer == 1


@story
async def test_one_bad_request_fails_alone() -> None:
    b = Bench()
    answers = [b.submit(rows, "a" * len(rows)) for rows in ([1], [-1], [2, 3])]
    await b.step()
    assert [done.answer for answer in (answers[0], answers[2]) for done in answer.result()] == [
        1, 2, 3,
    ]  # fmt: skip
    assert isinstance(answers[1].exception(), InternalError)
    assert b.run.batches == [[1, -1, 2, 3], [1], [-1], [2, 3]]


@story
async def test_a_full_queue_of_one_task_leaves_room_for_others() -> None:
    b = Bench(per_task=2)
    b.submit([0, 1], "ff")
    for check in (lambda: b.submit([2], "f"), lambda: b.batcher.check(Ask("lf", [1, 1], FAR))):
        with pytest.raises(TaskQueueFull) as refused:
            check()
        assert refused.value.retry_after_s is not None
    b.submit([3], "l")


@story
async def test_overload_is_refused_for_everybody() -> None:
    b = Bench(per_task=2, total=3)
    for task in "aab":
        b.submit([0], task)
    with pytest.raises(Unavailable):
        b.submit([0], "c")


@story
async def test_the_thread_works_and_stops() -> None:
    reached, release = threading.Event(), threading.Event()

    def slow(rows: Sequence[int]) -> list[int]:
        reached.set()
        release.wait(PATIENCE_S)
        return list(rows)

    b = Batcher[int, int](slow, Limits(1, 8, 8))
    b.start()
    assert b.alive

    def submit(row: int) -> Answer:
        return b.submit(Ask("a", [1.0], FAR), lambda: [row], AtOnce())

    running = submit(1)
    assert await asyncio.to_thread(reached.wait, PATIENCE_S)
    waiting = submit(2)
    later = Later()
    decoding = b.submit(Ask("a", [1.0], FAR), lambda: [4], later)
    stopping = asyncio.create_task(asyncio.to_thread(b.stop))
    with pytest.raises(Unavailable, match="stopping"):
        while True:
            submit(3).cancel()
            await asyncio.sleep(0)
    later.run()
    with pytest.raises(Unavailable, match="stopping"):
        await soon(decoding)
    release.set()
    await soon(stopping)
    assert (await soon(running))[0].answer == 1
    with pytest.raises(Unavailable, match="stopping"):
        await soon(waiting)
    assert not b.alive


@story
async def test_no_row_is_kept_longer_than_needed() -> None:
    """A row holds its path, and a path its components' memory."""

    class Big:
        """Something that can be watched."""

    b = Batcher[Big, int](lambda rows: [1 for _ in rows], Limits(4, 8, 8))
    gc.disable()
    try:
        for cancelled in (True, False):
            row = Big()
            gone = weakref.ref(row)
            answer = b.submit(Ask("a", [1.0], FAR), partial(list, (row,)), AtOnce())
            del row
            if cancelled:
                answer.cancel()
                await asyncio.sleep(0)
            else:
                b.start()
                await soon(answer)
                while gone() is not None:  # the thread is between two batches
                    await asyncio.sleep(0.001)
            assert gone() is None
    finally:
        gc.enable()
        await asyncio.to_thread(b.stop)
