"""What calls may have open, in all and of one caller."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from service.open_inference import grpc_callers
from service.open_inference.errors import TooManyCalls
from service.open_inference.grpc_callers import Callers
from service.settings import Settings

MIB = 2**20


class Connection:
    """That of a client."""

    def __init__(self) -> None:
        self.calls, self.aborted = 0, False

    def count_call(self, more: int) -> None:
        self.calls += more

    def abort(self) -> None:
        self.aborted = True


def callers(**settings: Any) -> Callers:
    return Callers(Settings("store", **{"upload_memory": 512 * MIB, **settings}))


def admit(callers: Callers, name: str, connection: Any = None) -> ExitStack:
    """A call of this caller, which ends when the stack is closed."""
    found = ExitStack()
    found.enter_context(callers.admitted(name, connection or Connection()))
    return found


def test_half_of_the_calls_are_others() -> None:
    found = callers(queue_total=10)
    one: Any = Connection()
    opened = [admit(found, "a", one) for _ in range(5)]
    with pytest.raises(TooManyCalls, match="5 calls of yours"):
        admit(found, "a", one)
    for _ in range(5):
        opened.append(admit(found, "b", one))
    with pytest.raises(TooManyCalls, match="10 calls are open"):
        admit(found, "c")
    opened[0].close()
    assert one.calls == 9
    admit(found, "c").close()
    for call in opened:
        call.close()
    assert one.calls == 0 and not found._callers


def test_half_of_the_connections_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_callers, "most_connections", lambda: 6)
    found = callers()
    opened = [admit(found, "a") for _ in range(3)]
    with pytest.raises(TooManyCalls, match="3 connections of yours"):
        admit(found, "a")
    opened.append(admit(found, "b"))
    opened[0].close()
    opened.append(admit(found, "a"))


def test_calls_are_bounded_by_memory_too() -> None:
    found = callers(upload_memory=8 * grpc_callers.LOOKAHEAD * 4)
    opened = [admit(found, "a"), admit(found, "a")]
    with pytest.raises(TooManyCalls):
        opened.append(admit(found, "a"))


def test_the_oldest_call_of_nobody_known_goes() -> None:
    found = callers()
    connections: list[Any] = [Connection() for _ in range(grpc_callers.UNKNOWN_CALLS + 2)]
    with found.arrived(connections[0]):
        pass
    with ExitStack() as opened:
        for connection in connections[1:]:
            opened.enter_context(found.arrived(connection))
        assert [one.aborted for one in connections[:3]] == [False, True, False]
    assert not found._unknown


def test_known_callers_leave_nobody_else_without_a_turn() -> None:
    found = callers(max_body_bytes=MIB, upload_memory=10 * MIB)  # four messages at once

    async def run() -> list[str]:
        got: list[str] = []

        async def receive(name: str) -> None:
            with found.admitted(name, connection) as caller:
                async with found.turn(caller):
                    got.append(name)
                    await over.wait()

        connection: Any = Connection()
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
    one: Any = Connection()
    with found.admitted("a", one) as first, found.admitted("b", one) as second:
        with found.answering(first, 5 * MIB):  # the only one is always sent
            with found.answering(first, 1000):
                pass
            for caller in (first, second):
                with (
                    pytest.raises(TooManyCalls, match="wait to be read"),
                    found.answering(caller, MIB),
                ):
                    pass
        with found.answering(second, MIB):
            pass
