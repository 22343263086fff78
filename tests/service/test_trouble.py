"""The gateway in trouble: broken tasks, a busy engine, slow loads, slow clients."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model_store import ModelStore
from service.compute.batching import Ask
from tests.service.deadlines import Deadlines
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.simulation import AtOnce
from tests.service.systems import encoded, image, png, publish
from tests.service.waiting import eventually


def test_failed_task_503_says_why_and_others_answer(gateway: Gateway) -> None:
    bad = publish(gateway.store, "broken", own={"encoderblock_0": 77})
    digest = bad.path.components["encoderblock_0"].removeprefix("sha256:")
    file = Path(Path(gateway.store.url)) / "blobs" / "sha256" / digest
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    body = refused(gateway.classify("broken", png(1)), 503, "unavailable")
    assert digest in body["detail"]
    listed = {task["id"]: task for task in gateway.get("/tasks")["tasks"]}
    assert listed["broken"]["state"] == "failed"
    assert digest in listed["broken"]["reason"]
    assert gateway.classify("plain", png(1)).status_code == 200
    file.write_bytes(good)
    eventually(lambda: gateway.classify("broken", png(1)).status_code == 200)


def test_a_running_task_does_not_feel_its_files_change(gateway: Gateway) -> None:
    published = publish(gateway.store, "steady", own={"encoderblock_0": 78})
    before = gateway.classify("steady", png(1)).json()["predictions"]
    digest = published.path.components["encoderblock_0"].removeprefix("sha256:")
    file = Path(gateway.store.url) / "blobs" / "sha256" / digest
    with file.open("r+b") as damaged:
        damaged.seek(-2000, 2)
        damaged.write(b"\xff" * 2000)
    assert gateway.classify("steady", png(1)).json()["predictions"] == before


def test_500_when_a_task_gives_no_numbers(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For an image that is unlike the one it was tried out with."""
    monkeypatch.setattr(gateway.app.state.runtime.engine, "probe", lambda _: None)
    publish(gateway.store, "nan")
    path = gateway.store.resolve("nan").path
    poison = {"scale": np.full(32, np.nan, np.float32), "bias": np.zeros(32, np.float32)}
    components = {**path.components, "encoder_norm": gateway.store.put(poison)}
    gateway.store.publish(replace(path, task="nan/poisoned", components=components))
    refused(gateway.classify("nan/poisoned", png(1)), 500, "internal")
    assert gateway.classify("nan", png(1)).status_code == 200


def test_an_answer_that_cannot_be_made_counts_as_500(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(gateway.store, "mute")
    monkeypatch.setattr("service.http.classify._encode", None)
    refused(gateway.classify("mute", png(1)), 500, "internal")
    assert gateway.metric('munet_requests_total{status="500",task="mute"}') == 1
    assert gateway.metric('munet_request_duration_seconds_count{task="mute"}') == 0


def test_503_for_a_head_of_another_number_of_classes(gateway: Gateway) -> None:
    """Heads are padded to one width: unchecked, it would answer with the wrong classes."""
    path = publish(gateway.store, "heads/own").path
    wide = gateway.store.resolve("group/wide").path.components["head"]
    foreign = replace(path, task="heads/foreign", components={**path.components, "head": wide})
    gateway.store.publish(foreign)
    body = refused(gateway.classify("heads/foreign", png(1)), 503, "unavailable")
    assert "expected a head of 3 classes, found one of 10" in body["detail"]
    assert gateway.classify("heads/own", png(1)).status_code == 200


class Obstacle:
    """A row that holds the engine up until it is told to fail."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.release = threading.Event()

    def __getattr__(self, name: str) -> Any:
        """Anything the engine looks at first."""
        self.reached.set()
        assert self.release.wait(60)
        raise RuntimeError(f"an obstacle has no {name}")


def hold_up(gateway: Gateway, obstacle: Obstacle) -> None:
    """Gives the engine a row that it does not get past."""

    async def submit() -> None:
        batcher, ask = gateway.app.state.runtime.batcher, Ask("a", [1.0], math.inf)
        answer = batcher.submit(ask, lambda: [obstacle], AtOnce())
        answer.add_done_callback(lambda done: done.exception())

    gateway.runner.run(submit())
    assert obstacle.reached.wait(60)


@pytest.fixture
def small(tmp_path: Path, compilations: str) -> Iterator[Gateway]:
    """A gateway whose queues hold next to nothing."""
    store = ModelStore(tmp_path, create=True)
    for task in ("a", "b", "c"):
        publish(store, task)
    made = Gateway(store, compilations, queue_per_task=2, queue_total=3, max_batch_rows=1)
    for task in ("a", "b", "c"):
        assert made.classify(task, png(1)).status_code == 200
    yield made
    made.close()


def test_429_503_and_504_while_the_engine_is_held_up(small: Gateway) -> None:
    obstacle = Obstacle()
    batcher = small.app.state.runtime.batcher
    hold_up(small, obstacle)

    async def overload() -> tuple[list[httpx.Response], list[httpx.Response]]:
        transport = httpx.ASGITransport(small.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def send(task: str, deadline_ms: int) -> httpx.Response:
                headers = {**OCTETS, "munet-deadline-ms": str(deadline_ms)}
                return await client.post(f"/classify/{task}", content=png(1), headers=headers)

            queued = [asyncio.create_task(send(task, 3_000)) for task in ("a", "a", "b")]
            while len(batcher) < 3 and not queued[0].done():
                await asyncio.sleep(0.01)
            refusals = [await send("a", 9_000), await send("c", 9_000)]
            return refusals, await asyncio.gather(*queued)

    (task_full, all_full), late = small.runner.run(overload())
    obstacle.release.set()
    refused(task_full, 429, "task-queue-full")
    refused(all_full, 503, "unavailable")
    for response in late:
        refused(response, 504, "deadline")
    assert small.classify("a", png(1)).status_code == 200
    assert small.metric("munet_batch_rows_count") == 3 + 1 + 1  # what was late never ran


@pytest.mark.parametrize("kind", ["answered", "not an image", "late"])
def test_bodies_are_freed_at_once(
    small: Gateway, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a garbage collection, so that a flood of bad requests cannot fill the memory."""
    body = encoded(image(1, (500, 250)))
    obstacle, deadlines = Obstacle(), Deadlines(monkeypatch)
    if kind == "late":
        hold_up(small, obstacle)

    async def status_of_one() -> int:
        transport = httpx.ASGITransport(small.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            sent = client.post("/classify/b", content=body, headers=OCTETS)
            answer = asyncio.create_task(sent)
            while kind == "late" and not len(small.app.state.runtime.batcher):
                await asyncio.sleep(0.001)
                assert not answer.done()
            if kind == "late":
                deadlines.passes()
            return (await answer).status_code

    body = body[:-100] if kind == "not an image" else body
    status = {"answered": 200, "not an image": 400, "late": 504}[kind]
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        found = [small.runner.run(status_of_one()) for _ in range(2)]
        before = tracemalloc.get_traced_memory()[0]
        found += [small.runner.run(status_of_one()) for _ in range(10)]
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        gc.enable()
        obstacle.release.set()
    assert set(found) == {status}
    assert grown < 4 * len(body)  # a decoding thread may still hold the last one


def test_503_while_a_task_is_loading(small: Gateway) -> None:
    obstacle = threading.Event()
    loader = small.app.state.runtime.loader
    prepare = loader.prepare
    loader.prepare = lambda *path, **how: obstacle.wait(60) and prepare(*path, **how)
    publish(small.store, "new")
    body = refused(small.classify("new", png(1), munet_deadline_ms="200"), 503, "unavailable")
    assert "loading" in body["detail"]
    assert small.classify("a", png(1)).status_code == 200
    obstacle.set()
    assert small.classify("new", png(1)).status_code == 200


def test_a_slow_upload_is_ended_by_the_deadline(small: Gateway) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    headers = {**OCTETS, "munet-deadline-ms": "300"}

    async def ask() -> httpx.Response:
        # httpx's own ASGI transport sends a body whole; this is the app with a slow client.
        sent: list[Any] = []
        chunks = trickle()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": await anext(chunks), "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        named = {"host": "localhost", **headers}.items()
        raw = [(key.encode(), value.encode()) for key, value in named]
        scope = {"type": "http", "method": "POST", "path": "/classify/a", "headers": raw,
                 "query_string": b"", "scheme": "http", "server": ("test", 80),
                 "client": ("127.0.0.1", 1)}  # fmt: skip
        await small.app(scope, receive, send)
        start, body = sent
        return httpx.Response(start["status"], headers=start["headers"], content=body["body"])

    refused(small.runner.run(ask()), 408, "upload-timeout")


def test_pictures_that_wait_for_the_engine_count_as_bodies_do(
    tmp_path: Path, compilations: str
) -> None:
    """A queue of them would fill a small container."""
    store = ModelStore(tmp_path, create=True)
    publish(store, "a")
    pixels = 4 * 3 * 16 * 16
    gateway = Gateway(store, compilations, upload_memory=8 * pixels, max_body_bytes=pixels)
    try:
        assert gateway.classify("a", png(1)).status_code == 200
        obstacle = Obstacle()
        hold_up(gateway, obstacle)

        async def flood() -> list[httpx.Response]:
            transport = httpx.ASGITransport(gateway.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                sent = [
                    asyncio.create_task(client.post("/classify/a", content=png(i), headers=OCTETS))
                    for i in range(20)
                ]
                while not sum(one.done() for one in sent) >= 12:
                    await asyncio.sleep(0.01)
                obstacle.release.set()
                return await asyncio.gather(*sent)

        answers = gateway.runner.run(flood())
        statuses = [one.status_code for one in answers]
        assert set(statuses) == {200, 503} and statuses.count(200) <= 8
        intake = gateway.app.state.runtime.intake

        def all_free() -> bool:
            gateway.classify("a", png(1))  # counts what has been freed
            return intake.free >= 6 * pixels

        eventually(all_free)
    finally:
        gateway.close()
