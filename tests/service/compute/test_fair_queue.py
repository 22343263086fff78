"""Shares under backlog, nobody starves, and order within a task."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.compute.fair_queue import Ask, FairQueue
from service.compute.tuning import MANY_ENTRIES, MANY_FINISHED, WEIGHTS


@dataclass(frozen=True, eq=False)
class Item:
    """A request with a number."""

    ask: Ask
    number: int = 0


def item(tasks: str, cost: float = 1.0, priority: int = 0, number: int = 0) -> Item:
    return Item(Ask(tasks, [cost] * len(tasks), 0.0, priority), number)


def take(queue: FairQueue[Item], count: int = 1) -> list[Item]:
    taken = []
    for _ in range(count):
        one = queue.pop()
        assert one is not None
        queue.charge(one)
        taken.append(one)
    return taken


@settings(deadline=None)
@given(
    flows=st.dictionaries(
        st.tuples(st.sampled_from("abcde"), st.sampled_from([1, 2, 3])),
        st.floats(0.1, 10.0),
        min_size=2,
    ),
    turns=st.integers(1, 300),
)
def test_backlogged_flows_get_equal_work_by_weight(
    flows: dict[tuple[str, int], float], turns: int
) -> None:
    """No two flows' work differs by more than one request of each, at any time."""
    queue = FairQueue[Item]()
    given_: Counter[tuple[str, int]] = Counter()
    for flow, cost in flows.items():
        for _ in range(2):
            queue.push(item(flow[0], cost, flow[1]))
    for _ in range(turns):
        (one,) = take(queue)
        given_[one.ask.flow[:2]] += 1
        queue.push(one)  # always something waiting
        shares = [given_[f] * cost / WEIGHTS[f[1]] for f, cost in flows.items()]
        spread = max(cost / WEIGHTS[f[1]] for f, cost in flows.items())
        assert max(shares) - min(shares) <= 2 * spread + 1e-6


@settings(deadline=None)
@given(
    flood=st.lists(st.floats(0.1, 10.0), min_size=30, max_size=60),
    before=st.integers(0, 20),
    priority=st.sampled_from([0, 1, 2]),
)
def test_who_comes_back_is_next(flood: list[float], before: int, priority: int) -> None:
    queue = FairQueue[Item]()
    for cost in flood:
        queue.push(item("f", cost))
    take(queue, before)
    assert queue.push(item("l", 1.0, priority))
    assert "l" in [one.ask.tasks for one in take(queue, 2)]


def test_who_has_had_more_than_its_share_is_not_light() -> None:
    queue = FairQueue[Item]()
    queue.push(item("a", 1.0))
    queue.push(item("a", 1.0))
    queue.push(item("b", 100.0))
    assert [one.ask.tasks for one in take(queue, 2)] == ["a", "b"]
    assert not queue.push(item("b", 100.0)), "one of its requests was enough for some time"
    assert queue.push(item("c", 100.0))


def test_who_is_alone_is_not_light() -> None:
    """Its next requests would be kept out of the batch of its first."""
    queue = FairQueue[Item]()
    assert not queue.push(item("a", 1.0))
    take(queue, 1)
    assert not queue.push(item("a", 1.0))


def test_the_lowest_level_never_stands_still() -> None:
    queue = FairQueue[Item]()
    for _ in range(100):
        for priority in (1, 0, 3, 9):
            queue.push(item("a", 1.0, priority))
    levels = Counter(one.ask.level for one in take(queue, 84))
    assert levels == {1: 64, 2: 16, 3: 4}, "shares of 16 to 4 to 1; 9 is the lowest, too"


def test_work_is_charged_to_every_task_that_a_request_names() -> None:
    queue = FairQueue[Item]()
    for _ in range(40):
        queue.push(item("ab"))
        queue.push(item("b"))
        queue.push(item("c"))
    ran = Counter(one.ask.tasks for one in take(queue, 40))
    assert ran["ab"] + ran["b"] == pytest.approx(ran["c"], abs=2), "b pays for both"


def test_a_task_does_not_lend_its_name_to_a_flood() -> None:
    """A request is due when all its tasks are: naming a cheap one first buys nothing."""
    queue = FairQueue[Item]()
    for _ in range(60):
        queue.push(Item(Ask("xf", [0.01, 1.0], 0.0)))
        queue.push(item("c"))
    ran = Counter(one.ask.tasks for one in take(queue, 40))
    assert ran["xf"] == pytest.approx(20, abs=2)


def test_what_is_put_back_stays_first_and_what_is_dropped_costs_nothing() -> None:
    queue = FairQueue[Item]()
    for number in range(3):
        queue.push(item("a", 1.0, number=number))
    queue.push(item("b", 1.0, number=9))
    first = queue.pop()
    assert first is not None and first.number == 0
    second = queue.pop()
    assert second is not None and second.number == 9, "a's other requests stand behind its first"
    queue.put_back(first)
    queue.drop(second)
    assert [one.number for one in take(queue, 3)] == [0, 1, 2]
    assert queue.pop() is None


def test_removed_tasks_are_forgotten() -> None:
    queue = FairQueue[Item]()
    queue.push(item("always"))
    for number in range(10 * MANY_FINISHED):
        queue.push(item("always"))
        queue.push(Item(Ask([f"once-{number}"], [1.0], 0.0)))
        take(queue, 2)
    assert len(queue._finish) <= MANY_FINISHED + 10
    take(queue)
    assert not queue._finish and not queue._lines and not queue._heap


def test_the_oldest_is_next_whatever_its_flow_has_had() -> None:
    queue = FairQueue[Item]()
    items = [item(flow, number=n) for n, flow in enumerate("aaabacb")]
    for one in items:
        queue.push(one)
    taken = []
    while (one := queue.pop_oldest()) is not None:
        taken.append(one.number)
        queue.charge(one)
    assert taken == list(range(7))
    assert queue.pop() is None and queue.pop_oldest() is None


def test_who_waits_behind_one_that_stands_aside_stays_behind_it() -> None:
    queue = FairQueue[Item]()
    items = [item(flow, number=n) for n, flow in enumerate("aab")]
    for one in items:
        queue.push(one)
    assert queue.pop_oldest() is items[0]
    assert queue.pop_oldest() is items[2]
    assert queue.pop_oldest() is None and queue.pop() is None
    queue.put_back(items[0])
    queue.charge(items[2])
    assert queue.pop_oldest() is items[0]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["push", "pop", "oldest", "back"]), max_size=200), st.data())
def test_each_request_is_popped_once_in_either_order(steps: list[str], data: st.DataObject) -> None:
    """Mixed as the batcher mixes them; the heap holds few entries that are not valid."""
    queue, waiting = FairQueue[Item](), set[Item]()
    for step in [*steps, *["pop"] * 200]:
        if step == "push":
            one = item(data.draw(st.sampled_from("abc")), cost=data.draw(st.floats(0.1, 9)))
            queue.push(one)
            waiting.add(one)
            continue
        popped = queue.pop_oldest() if step == "oldest" else queue.pop()
        assert (popped is None) == (not waiting)
        if popped is None:
            continue
        if step == "back":
            queue.put_back(popped)
        else:
            queue.charge(popped)
            waiting.remove(popped)
        assert len(queue._heap) <= MANY_ENTRIES + 2 * 3
    assert not waiting
