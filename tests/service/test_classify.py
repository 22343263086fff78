"""Answers that nobody waits for any more."""

from __future__ import annotations

import asyncio

import pytest

from service.classify import LOOK_AFTER_S, _unless_gone
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
