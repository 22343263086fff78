"""Pieces of requests' work in their order: fair by what they cost, and none for nobody."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.compute.decoders import Decoders, Turn
from service.compute.fair_queue import Ask
from service.compute.tuning import WEIGHTS
from tests.service.waiting import PATIENCE_S

FAR = 1e9


@dataclass
class Bench:
    """One thread whose pieces take as long as they say, and what it did in order."""

    now: float = 0.0
    order: list[str] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.decoders = Decoders(1, clock=lambda: self.now)
        reached = threading.Event()

        def hold() -> bool:
            reached.set()
            assert self.held.wait(PATIENCE_S)
            return False

        self.decoders.submit(Ask(["held"], [1.0], FAR), hold)
        assert reached.wait(PATIENCE_S)

    def submit(self, name: str, pieces: int, seconds: float = 1.0, **more: Any) -> Turn:
        """Waits behind what holds the thread up."""
        left = iter(range(pieces - 1, -1, -1))

        def piece() -> bool:
            self.order.append(name)
            self.now += seconds
            return next(left) > 0

        tasks = more.pop("tasks", [name])
        return self.decoders.submit(Ask(tasks, [1.0] * len(tasks), FAR, **more), piece)

    def end(self) -> list[str]:
        self.held.set()
        self.decoders.shutdown()
        return self.order


def test_one_image_of_many_delays_another_request_not_all_of_them() -> None:
    b = Bench()
    b.submit("many", 32)
    b.submit("one", 1)
    assert b.end().index("one") <= 1
    assert b.order.count("many") == 32


def test_a_request_that_comes_meanwhile_is_next_but_one() -> None:
    b = Bench()
    came: list[int] = []

    def come() -> bool:
        came.append(len(b.order))
        b.submit("one", 1)
        return False

    b.submit("many", 10)
    b.decoders.submit(Ask(["coming"], [1.0], FAR), come)
    order = b.end()
    assert order.index("one") - came[0] <= 1


def test_callers_of_one_task_have_equal_shares() -> None:
    b = Bench()
    for _ in range(10):
        b.submit("greedy", 8, tasks=["t"], caller="greedy")
    b.submit("modest", 4, tasks=["t"], caller="modest")
    order = b.end()
    last = len(order) - 1 - order[::-1].index("modest")
    assert order[: last + 1].count("greedy") <= 5


def test_shares_are_of_what_pieces_cost() -> None:
    b = Bench()
    b.submit("large", 40, seconds=10.0)
    b.submit("small", 200, seconds=1.0)
    spent = Counter[str]()
    for name in b.end():
        spent[name] += 10 if name == "large" else 1
        if spent["small"] < 200:
            assert abs(spent["large"] - spent["small"]) <= 30


def test_shares_are_weighted_by_priority() -> None:
    b = Bench()
    b.submit("urgent", 100, priority=1)
    b.submit("later", 100, priority=3)
    order = b.end()
    first = order[: order.index("urgent") + 80]
    assert first.count("urgent") > 3 * first.count("later")
    assert WEIGHTS[1] > WEIGHTS[3]


def test_a_cancelled_request_stops_after_the_piece_that_runs() -> None:
    b = Bench()
    reached, go, done = threading.Event(), threading.Event(), []

    def piece() -> bool:
        done.append(1)
        reached.set()
        assert go.wait(PATIENCE_S)
        return True

    running = b.decoders.submit(Ask(["running"], [1.0], FAR), piece)
    waiting = b.submit("waiting", 3)
    b.held.set()
    assert reached.wait(PATIENCE_S)
    running.cancel()
    waiting.cancel()
    go.set()
    b.submit("after", 1)
    assert b.end() == ["after"]
    assert len(done) == 1


def test_what_is_cancelled_is_let_go_of_at_once() -> None:
    b = Bench()
    turn = b.submit("waiting", 3)
    turn.cancel()
    assert turn.piece is None
    b.end()


def test_work_that_waits_is_done_before_the_end() -> None:
    decoders, done = Decoders(3), Counter[int]()
    lock = threading.Lock()

    def submit(number: int) -> None:
        def piece() -> bool:
            with lock:
                done[number] += 1
                return done[number] < 5

        decoders.submit(Ask([f"t{number % 3}"], [1.0], FAR), piece)

    for number in range(100):
        submit(number)
    assert decoders.alive
    decoders.shutdown()
    assert not decoders.alive
    assert done == {number: 5 for number in range(100)}


@settings(deadline=None, max_examples=100)
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from(["", "x"]), st.integers(0, 3),
            st.integers(1, 4), st.sampled_from([0.1, 1.0, 5.0]), st.booleans(),
        ),
        max_size=20,
    )
)  # fmt: skip
def test_every_piece_is_done_once_and_those_of_a_request_in_their_order(
    requests: list[tuple[str, str, int, int, float, bool]],
) -> None:
    b = Bench()
    wanted = Counter[str]()
    for number, (task, caller, priority, pieces, seconds, cancelled) in enumerate(requests):
        name = f"{number}"
        turn = b.submit(name, pieces, seconds, tasks=[task], caller=caller, priority=priority)
        if cancelled:
            turn.cancel()
        else:
            wanted[name] = pieces
    assert Counter(b.end()) == wanted
    assert not b.decoders._queue._lines


@pytest.mark.parametrize("threads", [1, 2])
def test_all_threads_work_for_one_flow(threads: int) -> None:
    decoders, together = Decoders(threads), threading.Barrier(threads, timeout=PATIENCE_S)
    for _ in range(threads):
        decoders.submit(Ask(["a"], [1.0], FAR), lambda: together.wait() < 0)
    decoders.shutdown()
    assert not together.broken
