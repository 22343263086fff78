"""Answers that nobody waits for any more, and those that did not come in time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from service.classify import LOOK_AFTER_S, _late, _unless_gone
from service.errors import ClientGone


async def leave() -> None:
    """A client that has closed its connection."""


async def fail() -> None:
    """A look at the connection that goes wrong."""
    raise RuntimeError("broken on purpose")


def test_a_client_that_has_left_ends_the_answer() -> None:
    async def story() -> None:
        await _unless_gone(asyncio.get_running_loop().create_future(), leave)

    with pytest.raises(ClientGone):
        asyncio.run(story())


def test_a_look_that_fails_does_not_mean_that_the_client_has_left() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        loop.call_later(2 * LOOK_AFTER_S, answer.cancel)  # for another reason
        await _unless_gone(answer, fail)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(story())


@pytest.mark.parametrize(
    ("stage", "status", "detail"),
    [
        ("receive", 408, "the image did not arrive within 2.5 s"),
        ("load", 503, "task 'a' is still loading"),
        ("decode", 504, "not answered within 2.5 s"),
        ("queue", 504, "not answered within 2.5 s"),
    ],
)
def test_what_is_late_says_what_it_was_waiting_for(stage: str, status: int, detail: str) -> None:
    request: Any = SimpleNamespace(
        timings=SimpleNamespace(stage=stage), patience_s=2.5, tasks=["a"]
    )
    error = _late(request)
    assert (error.status, error.detail) == (status, detail)
    assert error.retry_after_s == (1 if status == 503 else None)


def test_of_several_tasks_that_are_late_the_number_is_told() -> None:
    request: Any = SimpleNamespace(
        timings=SimpleNamespace(stage="load"), patience_s=2.5, tasks=["a", "b"]
    )
    assert _late(request).detail == "one of 2 tasks is still loading"
