"""Several engine threads: each runs batches of its own, and the queues know of all of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from service.compute.batching import Ask, Batcher, Limits
from service.compute.cores import Cores
from service.errors import GatewayError, TaskQueueFull
from tests.service.compute.batchers import Clock, Held, soon, story, submit
from tests.service.waiting import eventually

WAITING = Limits(4, per_task=8, total=16, streams=2)


def two_streams(run: Callable[[Sequence[int]], Sequence[int]], **more: Any) -> Batcher[int, int]:
    """Both may run, also while this process does other things."""
    batcher = Batcher[int, int](run, WAITING, **more)
    batcher._cores = Cores(2, lambda: 0.0)
    return batcher


@story
async def test_each_stream_runs_a_batch_while_the_other_does() -> None:
    run = Held()
    batcher = two_streams(run)
    for size in (1, 2, 4):
        for _ in range(4):
            batcher._throughput.note(size, float(size), 1e-9, 1e-9)
    batcher.start()
    answers = [submit(batcher, 0)]
    await run.wait()
    answers += [submit(batcher, row) for row in range(1, 4)]
    assert run.batches == [[0]] and len(batcher) == 3, "too few for a batch next to another"
    answers.append(submit(batcher, 4))
    await run.wait()
    assert run.batches == [[0], [1, 2, 3, 4]]
    assert batcher.alive
    run.end(2)
    for row, answer in enumerate(answers):
        assert (await soon(answer))[0].answer == row
    batcher.stop()
    assert not batcher.alive


@story
async def test_one_after_the_other_runs_on_the_same_stream() -> None:
    names: list[str] = []

    def run(rows: Sequence[int]) -> Sequence[int]:
        names.append(threading.current_thread().name)
        return rows

    batcher = two_streams(run)
    batcher.start()
    for row in range(8):
        await asyncio.to_thread(eventually, lambda: all(one.idle for one in batcher._streams))
        await soon(submit(batcher, row))
    assert names == ["engine_0"] * 8
    batcher.stop()


@story
async def test_a_stream_that_was_woken_for_what_another_took_is_woken_again() -> None:
    run = Held()
    batcher = two_streams(run)
    batcher.start()
    await asyncio.to_thread(eventually, lambda: all(one.idle for one in batcher._streams))
    first = batcher._streams[0]
    with batcher._lock:  # as if its row were gone before it could look
        first.idle = False
        first.changed.notify()
    await asyncio.to_thread(eventually, lambda: first.idle)
    for row in range(2):
        submit(batcher, row)
        await run.wait()
    run.end(2)
    batcher.stop()


@story
async def test_what_fits_into_the_next_batches_runs_in_the_order_of_arrival() -> None:
    """Two batches of 4 rows: the ninth row makes it the fair order."""
    for waiting, first in ((8, [0, 1, 2, 3]), (9, [0, 8, 1, 2])):
        run = Held()
        run.end(9)
        limits = Limits(4, per_task=16, total=16, streams=2)
        batcher = Batcher[int, int](run, limits, clock=Clock())
        batcher._throughput.limit = lambda *_, **__: 4
        for row in range(waiting):
            submit(batcher, row, "b" if row == waiting - 1 else "a")
        batcher.step(0)
        assert run.batches == [first]


@story
async def test_a_request_is_certain_of_its_turn_while_any_stream_is_free() -> None:
    clock, run = Clock(), Held()
    batcher = two_streams(run, clock=clock)
    batcher._throughput.note(1, 1.0, 10.0, 10.0)
    batcher.start()
    soon_enough = Ask(["a"], [1.0], 1.0)  # forecasts say 10 s
    batcher.check(soon_enough)
    submit(batcher, 0)
    await run.wait()
    batcher.check(soon_enough)
    submit(batcher, 1)
    await run.wait()
    with pytest.raises(GatewayError, match="deadline"):
        batcher.check(soon_enough)
    run.end(2)
    batcher.stop()


@story
async def test_two_streams_are_through_what_waits_in_half_the_time() -> None:
    seconds = {}
    for streams in (1, 2):
        batcher = Batcher[int, int](Held(), Limits(4, 8, 16, streams=streams), clock=Clock())
        batcher._throughput.note(1, 1.0, 10.0, 10.0)
        for row in range(4):
            submit(batcher, row)
        with pytest.raises(TaskQueueFull) as refused:
            batcher.check(Ask(["a"], [1.0], 1.0))
        seconds[streams] = refused.value.retry_after_s
    assert seconds[1] == 40.0 + 10.0
    assert seconds[2] == 20.0 + 10.0
