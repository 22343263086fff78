"""The batcher under any sequence of steps: each request is answered once, within its limits."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import TaskQueueFull, Unavailable
from tests.service.compute.batchers import FAR, Answer, Bench


@settings(deadline=None, max_examples=200)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(
                st.just("submit"), st.text("abc", min_size=1, max_size=3),
                st.sampled_from([0.5, 1.0, 4.0]), st.sampled_from([1.0, 3.0, FAR]),
                st.integers(0, 4),
            ),
            st.tuples(st.just("cancel"), st.integers(0, 30)),
            st.tuples(st.just("wait"), st.sampled_from([0.5, 2.0])),
            st.tuples(st.just("step")),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_every_request_is_answered_once_and_within_its_limits(steps: list[tuple]) -> None:
    asyncio.run(everything(steps))


async def everything(steps: list[tuple]) -> None:
    b = Bench(rows=4, per_task=4, total=6)
    answers: list[Answer] = []
    asked: list[str] = []

    async def submit(tasks: str, cost: float, left_s: float, priority: int) -> None:
        rows = [10 * len(answers) + place for place in range(len(tasks))]
        costs = [cost] * len(tasks)
        try:
            deadline = b.clock.now + left_s
            answers.append(b.submit(rows, tasks, deadline, costs=costs, priority=priority))
            asked.append(tasks)
        except (TaskQueueFull, Unavailable) as error:
            assert len(b.batcher) > 0 and error.retry_after_s is not None

    async def cancel(index: int) -> None:
        if index < len(answers):
            answers[index].cancel()
        await asyncio.sleep(0)

    async def wait(seconds: float) -> None:
        b.clock.now += seconds

    act = {"submit": submit, "cancel": cancel, "wait": wait, "step": b.step}
    for name, *arguments in steps:
        await act[name](*arguments)
        assert 0 <= len(b.batcher) <= 6
    await b.drain()
    ran = [row for batch in b.run.batches for row in batch]
    assert len(ran) == len(set(ran))
    assert all(len(batch) <= 4 for batch in b.run.batches)
    for index, answer in enumerate(answers):
        rows = [10 * index + place for place in range(len(asked[index]))]
        done = not answer.cancelled() and answer.exception() is None
        if done:
            assert [one.answer for one in answer.result()] == rows
        together = [batch for batch in b.run.batches if set(rows) & set(batch)]
        assert done == bool(together)
        assert all(set(rows) <= set(batch) for batch in together)
    assert b.batcher._admission._rows == 0 and not b.batcher._admission._work
