"""Batches run at the same time where the rest of the process leaves them cores."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from service.compute.batching import Batcher, Limits
from service.compute.cores import Cores, own_clock, seconds_of_others
from service.compute.tuning import WINDOW_S
from tests.service.compute.batchers import Clock, Held, soon, story, submit
from tests.service.waiting import eventually


class Rest:
    """What the rest of the process takes, as a share of a core."""

    def __init__(self) -> None:
        self.now = self.taken_s = 0.0

    def __call__(self) -> float:
        return self.taken_s

    def pass_by(self, windows: int, share: float) -> float:
        self.now += windows * WINDOW_S
        self.taken_s += windows * WINDOW_S * share
        return self.now


@pytest.mark.parametrize(
    ("cores", "share", "free"),
    [(2, 0.0, 2), (2, 0.7, 2), (2, 0.8, 1), (2, 1.0, 1), (2, 5.0, 1), (1, 0.0, 1), (16, 1.5, 15)],
)
def test_a_core_that_the_rest_needs_takes_no_batch(cores: int, share: float, free: int) -> None:
    rest = Rest()
    found = Cores(cores, rest)
    assert found.free(rest.now) == cores, "until something is known"
    assert found.free(rest.pass_by(1, share)) == free
    assert found.free(rest.pass_by(3, 0.0)) == cores, "the rest has nothing to do any more"


def test_under_a_flood_that_is_refused_the_event_loop_has_a_core() -> None:
    rest, came = Rest(), [0, 0]

    def pass_by(windows: int, asked: int, let_in: int) -> float:
        came[:] = came[0] + asked, came[1] + let_in
        return rest.pass_by(windows, 0.0)

    found = Cores(2, rest, lambda: (came[0], came[1]))
    assert found.free(pass_by(1, 90, 30)) == 2
    assert found.free(pass_by(1, 91, 30)) == 1
    assert found.free(pass_by(1, 30, 30)) == 1, "for a moment afterwards"
    assert found.free(pass_by(4, 30, 30)) == 2


def test_it_is_asked_once_a_window() -> None:
    asked: list[None] = []
    found = Cores(2, lambda: asked.append(None) or 0.0)
    for part in range(100):
        found.free(1.0 + part * WINDOW_S / 100)
    assert len(asked) == 1


def test_seconds_of_others_are_those_of_all_threads_but_these() -> None:
    stop = threading.Event()

    clocks: list[int] = []

    def work() -> None:
        clock = own_clock()
        assert clock is not None
        while time.thread_time() < 0.2:
            pass
        clocks.append(clock)
        stop.wait()

    thread = threading.Thread(target=work)
    before_s = time.process_time()
    thread.start()
    eventually(lambda: bool(clocks))
    without_s = seconds_of_others(clocks) - before_s
    with_s = time.process_time() - before_s
    stop.set()
    thread.join()
    assert with_s - without_s >= 0.2
    assert seconds_of_others(clocks) > 0, "a thread that has ended is no fault"


@story
async def test_while_the_rest_needs_a_core_one_batch_runs_at_a_time() -> None:
    run, clock = Held(), Clock()
    batcher = Batcher[int, int](run, Limits(4, 8, 16, streams=2), clock=clock)
    batcher._cores = Cores(2, lambda: clock.now)  # all of one core
    clock.now = WINDOW_S
    batcher.start()
    answers = [submit(batcher, 0)]
    await run.wait()
    answers.append(submit(batcher, 1))
    while not all(one.idle or one.busy_until is not None for one in batcher._streams):
        await asyncio.sleep(0)
    assert run.batches == [[0]]
    run.end(1)
    await run.wait()
    assert run.batches == [[0], [1]]
    batcher._cores = Cores(2, lambda: 0.0)  # from now on two at a time
    answers.append(submit(batcher, 2))
    await run.wait()
    assert run.batches == [[0], [1], [2]]
    run.end(2)
    assert [(await soon(answer))[0].answer for answer in answers] == [0, 1, 2]
    batcher.stop()
