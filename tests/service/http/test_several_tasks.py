"""POST /classify?task=a&task=b: one image for several tasks, each answered as if asked alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model_store import ModelStore
from service.request import STAGES
from tests.service.deadlines import Deadlines
from tests.service.http.clients import Client
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.systems import TINY, png, publish
from tests.service.waiting import PATIENCE_S, eventually

NAMES = ("last", "first", "group/wide", "small")


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    """Tasks that share a stem and a block, one of them with larger images."""
    store = ModelStore(tmp_path_factory.mktemp("sharing"), create=True)
    publish(store, "first")
    publish(store, "last", own={"encoderblock_1": 1})
    publish(store, "group/wide", replace(TINY, num_classes=10), own={"encoderblock_1": 2})
    publish(store, "small", replace(TINY, image_size=8))
    publish(store, "hidden", private=True)
    made = Gateway(store, compilations, max_batch_rows=8)
    for task in NAMES:  # compiling may take longer than a request
        eventually(lambda task=task: made.classify(task, png(1)).status_code == 200)
    yield made
    made.close()


def several(gateway: Gateway, *tasks: str, query: str = "", **headers: str) -> httpx.Response:
    asked = "&".join(f"task={task}" for task in tasks)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    path = f"/classify?{asked}{query}"
    return gateway.request("POST", path, content=png(1), headers={**OCTETS, **named})


def results(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    return response.json()["results"]


def alone(gateway: Gateway, task: str, query: str = "") -> dict[str, Any]:
    answer = gateway.classify(task, png(1), query).json()
    del answer["timing_ms"]
    return answer


def test_each_answer_is_that_of_a_request_of_its_own_in_the_order_asked_for(
    sharing: Gateway,
) -> None:
    found = results(several(sharing, *NAMES))
    assert [one["task"] for one in found] == list(NAMES)
    for one in found:
        expected = alone(sharing, one["task"])
        assert one.keys() == expected.keys()
        assert one["version"] == expected["version"]
        assert [p["label"] for p in one["predictions"]] == [
            p["label"] for p in expected["predictions"]
        ]
        assert [p["probability"] for p in one["predictions"]] == pytest.approx(
            [p["probability"] for p in expected["predictions"]], abs=1e-5
        )
    assert results(several(sharing, "first"))[0].keys() == found[0].keys()  # one of several


def test_what_tasks_share_is_computed_once(sharing: Gateway) -> None:
    results(several(sharing, *NAMES))
    before = sharing.metric("munet_rows_shared_total")
    results(several(sharing, "first", "last", "group/wide"))
    assert sharing.metric("munet_rows_shared_total") - before == 2 * 2  # stem and block of two


def test_stages_are_timed_for_the_request(sharing: Gateway) -> None:
    answer = several(sharing, *NAMES)
    assert answer.json()["timing_ms"].keys() == {*STAGES, "total"}
    assert "total;dur=" in answer.headers["server-timing"]


def test_top_k_is_for_all_and_at_most_their_classes(sharing: Gateway) -> None:
    found = results(several(sharing, "first", "group/wide", query="&top_k=7"))
    assert [len(one["predictions"]) for one in found] == [3, 7]


def test_a_task_that_cannot_answer_has_a_problem_in_its_place(sharing: Gateway) -> None:
    publish(sharing.store, "nan")
    path = sharing.store.resolve("nan").path
    poison = {"scale": np.full(32, np.nan, np.float32), "bias": np.zeros(32, np.float32)}
    components = {**path.components, "encoder_norm": sharing.store.put(poison)}
    sharing.store.publish(replace(path, task="nan", components=components))
    broken = publish(sharing.store, "broken", own={"encoderblock_0": 77})
    digest = broken.path.components["encoderblock_0"].removeprefix("sha256:")
    (Path(sharing.store.url) / "blobs" / "sha256" / digest).write_bytes(b"damaged")
    lines = {f'munet_requests_total{{status="{s}",task="{t}"}}': count for s, t, count in (
        (200, "last", 1), (200, "first", 1), (503, "nan", 1), (503, "broken", 1),
        (404, "(other)", 2), (404, "hidden", 0), (200, "nan", 0), (200, "(other)", 0),
    )}  # fmt: skip
    before = {line: sharing.metric(line) for line in lines}
    found = results(several(sharing, "frist", "last", "broken", "nan", "hidden", "first"))
    assert {line: sharing.metric(line) - before[line] for line in lines} == lines
    assert [one.get("problem", {}).get("status") for one in found] == [
        404,
        None,
        503,
        503,
        404,
        None,
    ]
    assert found[0]["task"] == "frist"
    assert "first" in found[0]["problem"]["nearest"]
    assert "hidden" not in found[0]["problem"]["nearest"]
    assert digest in found[2]["problem"]["detail"]
    assert "private" not in str(found[4])
    for one in found:
        assert ("problem" in one) != ("predictions" in one)
    (counted,) = sharing.get("/v2/models/nan/stats")["model_stats"]
    stats = counted["inference_stats"]
    assert (stats["success"]["count"], stats["fail"]["count"]) == (0, 1)
    for task in ("nan", "broken"):
        sharing.store.rm(task)


def test_if_none_can_answer_the_first_ones_refusal_is_the_answer(sharing: Gateway) -> None:
    body = refused(several(sharing, "frist", "hidden"), 404, "unknown-task")
    assert "'frist'" in body["detail"]


def test_what_cannot_be_meant_is_refused(sharing: Gateway) -> None:
    refused(several(sharing), 422, "bad-parameter")
    refused(several(sharing, "first", "first"), 422, "bad-parameter")
    refused(several(sharing, *(f"t{i}" for i in range(9))), 422, "bad-parameter")
    refused(several(sharing, "first", "last", query="&version=1"), 422, "bad-parameter")
    assert results(several(sharing, "first", query="&version=1"))[0]["version"] == 1
    bad = sharing.request(
        "POST", "/classify?task=first&task=last", content=b"no image", headers=OCTETS
    )
    refused(bad, 400, "bad-image")


def test_names_beyond_the_limit_are_not_counted(sharing: Gateway) -> None:
    line = 'munet_requests_total{status="422",task="(other)"}'
    before = sharing.metric(line)
    refused(several(sharing, *(f"t{i}" for i in range(1000))), 422, "bad-parameter")
    assert sharing.metric(line) - before <= 8


@contextmanager
def held_up(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The engine begins a batch, says so with the event, and goes on when the context ends."""
    batcher = gateway.app.state.runtime.batcher
    run, reached, released = batcher._runner._run, threading.Event(), threading.Event()

    def wait(rows: Any) -> Any:
        reached.set()
        assert released.wait(PATIENCE_S)
        return run(rows)

    monkeypatch.setattr(batcher._runner, "_run", wait)
    try:
        yield reached
    finally:
        released.set()


def ask(gateway: Gateway, *tasks: str) -> Client:
    query = "&".join(f"task={task}" for task in tasks).encode()
    client = Client(gateway, "/classify", query)
    client.send(png(1))
    return client


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_the_deadline_is_one_for_all(sharing: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = sharing.app.state.runtime.batcher

    async def late() -> list[list[int]]:
        with held_up(sharing, monkeypatch) as reached:
            first = ask(sharing, "first")
            await until(reached.is_set)
            deadlines = Deadlines(monkeypatch)
            several = ask(sharing, "first", "last", "small")
            await until(lambda: len(batcher) == 3)
            deadlines.passes()
            await several.task
        await first.task
        return [first.statuses, several.statuses]

    assert sharing.runner.run(late()) == [[200], [504]]


def test_rows_of_a_client_that_left_do_not_run(
    sharing: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = sharing.app.state.runtime.batcher
    before = sharing.metric("munet_batch_rows_sum")

    async def come_and_go() -> list[list[int]]:
        with held_up(sharing, monkeypatch) as reached:
            first = ask(sharing, "first")
            await until(reached.is_set)
            several = ask(sharing, "first", "last", "small")
            await until(lambda: len(batcher) == 3)
            several.leave()
            await several.task
        await first.task
        return [first.statuses, several.statuses]

    assert sharing.runner.run(come_and_go()) == [[200], [499]]
    assert sharing.classify("first", png(1)).status_code == 200
    assert sharing.metric("munet_batch_rows_sum") - before == 2
