"""What calls may have open, in all and of one caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.settings import Settings
from service.v2 import grpc_callers
from service.v2.errors import TooManyCalls
from service.v2.grpc_callers import Callers

MIB = 2**20


class Context:
    """Of a call, which ends when it is told to."""

    def __init__(self) -> None:
        self.done: list[Callable[[Any], None]] = []

    def add_done_callback(self, work: Callable[[Any], None]) -> None:
        self.done.append(work)

    def end(self) -> None:
        for work in self.done:
            work(self)


class Connection:
    """That of a client."""

    def __init__(self) -> None:
        self.calls, self.aborted = 0, False

    def call_ended(self) -> None:
        self.calls -= 1

    def abort(self) -> None:
        self.aborted = True


def callers(**settings: Any) -> Callers:
    return Callers(Settings("store", **settings))


def admit(callers: Callers, name: str, connection: Any = None) -> Context:
    context: Any = Context()
    callers.admit(name, context, connection or Connection())
    return context


def test_half_of_the_calls_are_others() -> None:
    found = callers(queue_total=10)
    one: Any = Connection()
    opened = [admit(found, "a", one) for _ in range(5)]
    with pytest.raises(TooManyCalls, match="5 calls of yours"):
        admit(found, "a", one)
    for _ in range(5):
        admit(found, "b", one)
    with pytest.raises(TooManyCalls, match="10 calls are open"):
        admit(found, "c")
    opened[0].end()
    assert one.calls == 9
    admit(found, "c")


def test_half_of_the_connections_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_callers, "most_connections", lambda: 6)
    found = callers()
    opened = [admit(found, "a") for _ in range(3)]
    with pytest.raises(TooManyCalls, match="3 connections of yours"):
        admit(found, "a")
    admit(found, "b")
    opened[0].end()
    admit(found, "a")


def test_calls_are_bounded_by_memory_too() -> None:
    found = callers(upload_memory=8 * grpc_callers.LOOKAHEAD * 4)
    admit(found, "a")
    admit(found, "a")
    with pytest.raises(TooManyCalls):
        admit(found, "a")


def test_the_oldest_call_of_nobody_known_goes() -> None:
    found = callers()
    connections: list[Any] = [Connection() for _ in range(grpc_callers.UNKNOWN_CALLS + 2)]
    contexts: list[Any] = [Context() for _ in connections]
    found.arrived(contexts[0], connections[0])
    contexts[0].end()
    for context, connection in zip(contexts[1:], connections[1:], strict=True):
        found.arrived(context, connection)
    assert [one.aborted for one in connections[:3]] == [False, True, False]
    for context in contexts:
        context.end()
    assert not found._unknown


def test_known_callers_leave_nobody_else_without_a_turn() -> None:
    found = callers(max_body_bytes=MIB, upload_memory=10 * MIB)  # four messages at once

    async def run() -> list[str]:
        got: list[str] = []

        async def receive(name: str) -> None:
            caller = found.admit(name, contexts.pop(), connection)
            async with found.turn(caller):
                got.append(name)
                await over.wait()

        connection: Any = Connection()
        contexts: list[Any] = [Context() for _ in range(9)]
        over = asyncio.Event()
        tasks = [asyncio.create_task(receive(name)) for name in ("a",) * 5 + ("b",) * 3 + ("c",)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first = list(got)
        over.set()
        await asyncio.gather(*tasks)
        return first

    assert asyncio.run(run()) == ["a", "a", "b", "b"]


def test_unread_answers_are_bounded() -> None:
    found = callers(upload_memory=16 * MIB)  # two of it for answers
    contexts: list[Any] = [Context(), Context()]
    connection: Any = Connection()
    first = found.admit("a", contexts[0], connection)
    second = found.admit("b", contexts[1], connection)
    found.answering(first, 5 * MIB, contexts[0])  # the only one is always sent
    found.answering(first, 1000, contexts[0])
    for caller, context in ((first, contexts[0]), (second, contexts[1])):
        with pytest.raises(TooManyCalls, match="wait to be read"):
            found.answering(caller, MIB, context)
    contexts[0].end()
    found.answering(second, MIB, contexts[1])
