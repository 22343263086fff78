"""Nobody takes so much of the room for uploads that none is left for others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from model_store import ModelStore
from service.errors import Unavailable
from service.http.room import Holder, Room, holders
from service.http.uploads import JOINED_AT_ONCE, Intake, read_body
from tests.service.http.clients import Client, hold
from tests.service.in_process import Gateway
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually

LIMIT = 900


def fill(room: Room, tasks: list[str], caller: str, size: int = 1) -> int:
    """How much a caller gets by asking until it is refused."""
    got = 0
    while True:
        try:
            room.take(size, holders(tasks, caller))
        except Unavailable:
            return got
        got += size


def test_a_caller_has_at_most_a_third_and_a_task_half() -> None:
    room = Room(LIMIT, "units")
    assert fill(room, ["a"], "one") == LIMIT // 3
    assert fill(room, ["a"], "two") == LIMIT // 2 - LIMIT // 3
    assert fill(room, ["a"], "one") == 0
    assert fill(room, ["b"], "three") > LIMIT // 10


def test_whatever_tasks_a_caller_names_others_get_room_for_each() -> None:
    room = Room(LIMIT, "units")
    names = [f"t{n}" for n in range(32)]
    assert fill(room, names, "one") == LIMIT // 3
    for name in names[:8]:
        assert fill(room, [name], f"of {name}") > 0


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(1, 200), st.booleans())
    )
)
def test_what_is_given_back_is_free_again(steps: list[tuple[str, str, int, bool]]) -> None:
    room, held = Room(LIMIT, "units"), list[tuple[int, list[Holder]]]()
    for task, caller, size, back in steps:
        if back and held:
            size, of = held.pop()
            room.give(size, of)
            continue
        of = list(holders([task], caller))
        try:
            room.take(size, of)
        except Unavailable as error:
            assert error.retry_after_s
            continue
        held.append((size, of))
        assert sum(size for size, _ in held) <= LIMIT
    for size, of in held:
        room.give(size, of)
    room.take(LIMIT, holders(["a"], "x"))  # nothing stays counted


def test_one_request_may_have_all_that_is_free() -> None:
    room, of = Room(LIMIT, "units"), holders(["a"], "one")
    for own in range(0, LIMIT, 100):
        room.take(100, of, own)
    with pytest.raises(Unavailable, match="all together have 900 of 900 units"):
        room.take(1, holders(["b"], "two"))
    room.give(LIMIT, of)
    room.take(400, of)
    with pytest.raises(Unavailable, match="task 'a' has 400 of 900 units"):
        room.take(300, of)


# -- in the gateway


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("room")
    store = ModelStore(folder, create=True)
    for name in ("plain", "other"):
        publish(store, name)
    made = Gateway(store, compilations, queue_total=110, upload_memory=900_000)
    for name in ("plain", "other"):
        assert made.classify(name, png(1)).status_code == 200
    yield made
    made.close()


@pytest.mark.parametrize("size", [10, 9_000])  # they fill what may be received, or its memory
@pytest.mark.parametrize("start", ["/classify/%s", "/v2/models/%s/infer"])
def test_slow_uploads_for_one_task_leave_others_answered(
    small: Gateway, size: int, start: str
) -> None:
    """Of 110 uploads some are refused, and no request for another task."""

    async def crowd() -> None:
        slow = [Client(small, start % "plain", address=f"127.0.0.{n % 5}") for n in range(110)]
        for client in slow:
            client.send(bytes(size), more=True)
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            while not any(client.statuses for client in slow):
                await asyncio.sleep(0.01)
        assert {one for client in slow for one in client.statuses} == {503}
        for address in ("127.0.0.1", "127.1.1.1"):  # of one who uploads slowly, and of another
            for _ in range(3):
                fast = Client(small, "/classify/other", address=address)
                fast.send(png(1))
                await fast.task
                assert fast.statuses == [200]
        for client in slow:
            client.leave()
        await asyncio.gather(*(client.task for client in slow))

    small.runner.run(crowd())
    assert small.classify("plain", png(1)).status_code == 200


def test_nor_do_those_of_one_caller_for_all_tasks(small: Gateway) -> None:
    async def crowd() -> None:
        slow = [Client(small, "/classify", b"task=plain&task=other") for n in range(110)]
        for client in slow:
            client.send(bytes(9_000), more=True)
        async with asyncio.timeout(60):
            while not any(client.statuses for client in slow):
                await asyncio.sleep(0.01)
        for task in ("plain", "other"):
            fast = Client(small, f"/classify/{task}", address="127.1.1.1")
            fast.send(png(1))
            await fast.task
            assert fast.statuses == [200]
        for client in slow:
            client.leave()
        await asyncio.gather(*(client.task for client in slow))

    small.runner.run(crowd())


def test_bodies_that_wait_for_their_turn_leave_others_room(small: Gateway) -> None:
    """Complete ones too are their caller's, for as long as they are in memory."""
    runtime, busy = small.app.state.runtime, threading.Event()
    for _ in range(runtime.settings.decode_threads):
        hold(small, busy)

    async def crowd() -> None:
        many = [Client(small) for _ in range(10)]
        for client in many:
            client.send(png(1) + bytes(90_000))
        async with asyncio.timeout(PATIENCE_S):
            while runtime.intake._held < 180_000 or not any(one.statuses for one in many):
                await asyncio.sleep(0.01)
        other = Client(small, "/classify/other", address="127.1.1.1")
        other.send(png(1) + bytes(90_000))
        async with asyncio.timeout(PATIENCE_S):
            while not any("127.1.1.1" in str(one) for one in runtime.intake._by_holder):
                await asyncio.sleep(0.01)
        busy.set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(one.task for one in (*many, other)))
        assert other.statuses == [200]
        assert sorted(one.statuses[0] for one in many) == [200] * 3 + [503] * 7

    try:
        small.runner.run(crowd())
    finally:
        busy.set()
    assert small.classify("plain", png(1)).status_code == 200
    # Nothing stays counted: what is freed is given back at the next take.
    eventually(lambda: not (runtime.intake.take(0) or runtime.intake._by_holder))


@pytest.mark.parametrize("path", ["/classify/plain", "/v2/models/plain/infer"])
def test_without_tokens_each_address_has_its_own_place_in_the_queue(
    small: Gateway, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher, asked = small.app.state.runtime.batcher, list[str]()
    monkeypatch.setattr(batcher, "check", lambda ask: asked.append(ask.caller))

    async def two() -> None:
        for address in ("127.0.0.1", "127.0.0.2"):
            client = Client(small, path, address=address)
            client.send(b"{}")
            await client.task

    small.runner.run(two())
    assert asked == ["address 127.0.0.1", "address 127.0.0.2"]


def test_what_a_request_keeps_is_of_its_holders() -> None:
    intake, of = Intake(LIMIT), holders([], "one")
    intake.take(200, of)
    body = intake.body(bytes(200), of)
    intake.give(200, of)
    kept = intake.keeper(of, 200)
    found = [body, kept(bytes(300)), kept(bytes(300))]  # one request may have all that is free
    with pytest.raises(Unavailable, match="all together"):
        kept(bytes(200))
    with pytest.raises(Unavailable, match="one has 800"):
        intake.kept(bytes(60), of)
    intake.kept(bytes(60), holders([], "two"))
    found.clear()
    del body
    intake.take(LIMIT, of)


def test_a_long_body_is_counted_until_it_is_put_together_though_its_client_left() -> None:
    size, of = 3 * JOINED_AT_ONCE, holders([], "one")
    messages = [{"type": "http.request", "body": bytes(JOINED_AT_ONCE), "more_body": True}] * 3

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.request", "body": b""}

    async def leave() -> None:
        begun, end = threading.Event(), threading.Event()
        with ThreadPoolExecutor(1) as parsers:
            parsers.submit(lambda: (begun.set(), end.wait(PATIENCE_S)))
            runtime = SimpleNamespace(intake=intake, uploads=Room(9, "bodies"), parsers=parsers)
            app = SimpleNamespace(state=SimpleNamespace(runtime=runtime))
            request = Request({"type": "http", "headers": [], "app": app}, receive)
            reading = asyncio.create_task(read_body(request, size, of))
            await asyncio.to_thread(begun.wait, PATIENCE_S)
            while intake._held < size or messages:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            assert reading.cancelled() and intake._held == size
            end.set()

    intake = Intake(2 * size)
    asyncio.run(leave())
    intake.take(2 * size, of)
