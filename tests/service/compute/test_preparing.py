"""How the batcher lets images be decoded, a piece at a time, and what it forecasts of that."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service.compute.batching import Ask
from service.errors import DeadlineExceeded, InternalError, TaskQueueFull
from tests.service.compute.batchers import FAR, Bench, Clock, Later, story
from tests.service.simulation import AtOnce
from tests.service.waiting import PATIENCE_S


@story
async def test_a_request_counts_while_its_image_is_decoded() -> None:
    b, ask, later = Bench(per_task=1), Ask("a", [1.0], FAR), Later()
    broken = b.batcher.submit(ask, lambda: [1 // 0], later)
    with pytest.raises(TaskQueueFull):
        b.batcher.check(ask)
    later.run()
    with pytest.raises(InternalError):
        await broken
    b.batcher.check(ask)  # it came to nothing
    answer = b.batcher.submit(ask, lambda: [1], later)
    later.run()
    with pytest.raises(TaskQueueFull):
        b.batcher.check(ask)
    await b.drain()
    assert answer.result()[0].answer == 1


@story
async def test_a_request_that_is_cancelled_before_its_turn_is_never_decoded() -> None:
    b, ask, later = Bench(per_task=1), Ask("a", [1.0], FAR), Later()
    decoded: list[int] = []
    gone = b.batcher.submit(ask, lambda: decoded.append(1) or [1], later)
    gone.cancel()
    await asyncio.sleep(0)
    b.batcher.check(ask)
    later.run()
    assert not decoded
    assert not len(b.batcher)


@story
async def test_a_request_that_is_cancelled_while_it_is_decoded_is_never_run() -> None:
    b, ask, later = Bench(per_task=1), Ask("a", [1.0], FAR), Later()
    reached, release = threading.Event(), threading.Event()

    def made() -> list[int]:
        reached.set()
        assert release.wait(PATIENCE_S)
        return [1]

    gone = b.batcher.submit(ask, made, later)
    working = asyncio.create_task(asyncio.to_thread(later.run))
    assert await asyncio.to_thread(reached.wait, PATIENCE_S)
    gone.cancel()
    await asyncio.sleep(0)
    b.batcher.check(ask)  # what a thread still works on takes no room
    release.set()
    await working
    assert not len(b.batcher)
    await b.drain()
    assert b.run.batches == []


@story
async def test_rows_are_made_a_piece_at_a_time() -> None:
    b, later, calls = Bench(), Later(), []

    def make() -> list[int] | None:
        calls.append(1)
        return [1] if len(calls) == 3 else None

    answer = b.batcher.submit(Ask("a", [1.0], FAR), make, later)
    for number in (1, 2):
        later.run(1)
        assert len(calls) == number and not len(b.batcher)
    later.run()
    await b.drain()
    assert answer.result()[0].answer == 1


@pytest.mark.parametrize("why", ["cancelled", "late"])
def test_no_further_piece_is_made_of_a_request_that_ends(why: str) -> None:
    async def ending() -> None:
        b, later, calls = Bench(per_task=1), Later(), []
        ask = Ask("a", [1.0], 5.0)
        answer = b.batcher.submit(ask, lambda: calls.append(1), later)
        later.run(2)
        if why == "cancelled":
            answer.cancel()
            await asyncio.sleep(0)
        else:
            b.clock.now = 5.1
        later.run()
        assert len(calls) == 2
        if why == "late":
            with pytest.raises(DeadlineExceeded, match="of decoding"):
                await answer
        b.batcher.check(Ask("a", [1.0], FAR))  # its place is free
        assert not b.batcher._admission._decoding

    asyncio.run(ending())


class Slow:
    """Makes a row in some seconds of the clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def __call__(self) -> list[int]:
        self.clock.now += self.seconds
        return [1]


@story
async def test_images_before_it_in_the_decoders_delay_a_request_of_their_flow_only() -> None:
    """However long theirs take: others have their turn after one of them."""
    b, later = Bench(per_task=100, total=200), Later()
    for task, seconds in (("a", 1.0), ("b", 0.01)):
        for _ in range(2):
            b.batcher.submit(Ask(task, [1.0], FAR), Slow(b.clock, seconds), later)
        later.run()
        await b.drain()
    for _ in range(20):
        b.batcher.submit(Ask("a", [1.0], FAR), Slow(b.clock, 1.0), later)
    deadline = b.clock.now + 10.0
    with pytest.raises(TaskQueueFull, match="its own waiting work") as refused:
        b.batcher.check(Ask("a", [1.0], deadline))
    assert refused.value.retry_after_s == pytest.approx(21, abs=2)
    b.batcher.check(Ask("a", [1.0], deadline, caller="another"))
    for _ in range(50):
        b.batcher.check(Ask("b", [1.0], b.clock.now + 3.0))
        b.batcher.submit(Ask("b", [1.0], FAR), Slow(b.clock, 0.01), later)


@story
async def test_what_is_remembered_of_decoding_is_bounded() -> None:
    b = Bench(per_task=1, total=1)
    for number in range(3000):
        b.submit([1], (f"task-{number}",))  # type: ignore[arg-type]
        await b.drain()
    assert len(b.batcher._admission._decode_s) < 2000
    assert not b.batcher._admission._decoding


@story
async def test_a_request_of_which_nothing_is_known_counts_as_the_mean_of_the_others() -> None:
    b = Bench()
    b.batcher.missed()
    assert b.batcher.offered_s == (0.0, 0.0)

    def slow() -> list[int]:
        b.clock.now += 0.25
        return [1]

    for _ in range(2):  # how long it takes to decode is known after the first
        b.batcher.submit(Ask("a", [1.0], FAR), slow, AtOnce())
    before_s, before_decode_s = b.batcher.offered_s
    assert before_s > 0 and before_decode_s == pytest.approx(0.25)
    b.batcher.missed()
    expected = (before_s * 3 / 2, before_decode_s * 3 / 2)
    assert b.batcher.offered_s == pytest.approx(expected)
    b.batcher.missed()
    assert b.batcher.offered_s == pytest.approx((before_s * 2, before_decode_s * 2))
    await b.drain()
