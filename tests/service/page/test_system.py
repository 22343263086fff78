"""`GET /system`: tasks, paths, components; its pages, its ETag, and its stream of changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_store import ModelStore
from service.access.grants import LOCAL, Grants
from service.metrics.task_requests import Counted
from service.page.events import _told
from service.page.traffic import APART_S, WINDOW_S, Traffic
from tests.service.access.tokens import bearer, entry
from tests.service.in_process import Gateway, refused
from tests.service.page.streams import Stream
from tests.service.systems import png, publish

TOKENS = entry("reader", "r", 'read = true\nclassify = ["a"]') + entry("shop", "s", "read = false")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    """Three tasks that share all but their heads, and one of them a block too."""
    store = ModelStore(tmp_path_factory.mktemp("system"), create=True)
    publish(store, "a")
    publish(store, "b", own={"encoderblock_1": 1})
    publish(store, "c", extra={"data": {"fingerprint": "sha256:1234"}})
    made = Gateway(store, compilations)
    assert made.classify("a", png(1)).status_code == 200
    yield made
    made.close()


def test_paths_run_over_shared_components(system: Gateway) -> None:
    found = system.get("/system")
    parts = found["components"]
    a, b, _ = found["tasks"]
    assert list(a["components"]) == [
        *("embedding", "cls", "posembed_input", "encoderblock_0", "encoderblock_1"),
        *("encoder_norm", "head"),
    ]
    assert a["components"]["encoderblock_0"] == b["components"]["encoderblock_0"]
    assert a["components"]["encoderblock_1"] != b["components"]["encoderblock_1"]
    shared, own = parts[a["components"]["encoderblock_0"]], parts[a["components"]["head"]]
    assert (shared["tasks"], own["tasks"]) == (3, 1)
    assert (shared["state"], own["state"]) == ("resident", "resident")
    assert parts[b["components"]["head"]]["state"] == "absent"
    assert sum(parts[i]["bytes"] for i in a["components"].values()) == a["bytes"]["total"]
    assert a["examples"] == {"validation": 10}
    assert [task["fingerprint"] for task in found["tasks"]] == [None, None, "sha256:1234"]


def test_pages_hold_the_tasks_of_the_whole_list(system: Gateway) -> None:
    first = system.get("/system?limit=2")
    assert [task["id"] for task in first["tasks"]] == ["a", "b"]
    assert first["next"] == "b"
    assert [task["id"] for task in system.get("/system?after=b")["tasks"]] == ["c"]
    assert "next" not in system.get("/system?after=b")
    refused(system.request("GET", "/system?limit=501"), 422, "bad-parameter")


def test_who_knows_the_answer_gets_none(system: Gateway) -> None:
    answer = system.request("GET", "/system?after=b")
    headers = {"if-none-match": f'"other", {answer.headers["etag"]}'}
    again = system.request("GET", "/system?after=b", headers=headers)
    assert (again.status_code, again.content) == (304, b"")
    publish(system.store, "d")
    system.runner.run(_looked(system))
    assert system.request("GET", "/system?after=b", headers=headers).status_code == 200


async def _looked(gateway: Gateway) -> None:
    await asyncio.wrap_future(gateway.app.state.runtime.catalog.refresh())


def test_requests_are_those_that_came_lately(system: Gateway) -> None:
    for _ in range(3):
        assert system.classify("b", png(1)).status_code == 200
    assert system.classify("b", b"no image").status_code == 400
    lately = system.get("/system?after=a&limit=1")["tasks"][0]["lately"]
    assert (lately["requests"], lately["refused"], lately["failed"]) == (4, 1, 0)
    assert 0 < lately["p50_ms"] <= lately["p99_ms"]
    assert lately["seconds"] > 0


def test_what_came_longer_ago_is_not_counted() -> None:
    now, counts = [0.0], {"t": Counted({200: 5}, (5, 0, 0))}
    traffic = Traffic(lambda: dict(counts), (1.0, 2.0), clock=lambda: now[0])
    now[0] = 1.0
    assert traffic.lately()["t"].requests == 5
    now[0] = APART_S
    traffic.lately()
    counts["t"] = Counted({200: 6, 500: 2, 404: 1}, (5, 1, 0))
    now[0] = APART_S + WINDOW_S
    found = traffic.lately()["t"]
    assert (found.requests, found.failed, found.refused, found.seconds) == (4, 2, 1, WINDOW_S)
    assert (found.p50_ms, found.p99_ms) == (1500.0, 1990.0)
    now[0] += 2 * WINDOW_S
    traffic.lately()
    now[0] += WINDOW_S
    assert traffic.lately() == {}


def test_a_token_needs_read(tmp_path: Path, compilations: str) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(TOKENS)
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "a")
    gateway = Gateway(store, compilations, tokens=str(file))
    try:
        for path in ("/system", "/system/events"):
            refused(gateway.request("GET", path), 401, "unauthenticated")
            refused(gateway.request("GET", path, headers=bearer("s")), 403, "forbidden")
        found = gateway.request("GET", "/system", headers=bearer("r")).json()
        assert found["you"] == {"name": "reader", "tokens": True, "admin": False}
        gateway.runner.run(_taken_away(gateway, file))
    finally:
        gateway.close()


async def _taken_away(gateway: Gateway, file: Path) -> None:
    async with Stream(gateway, bearer("r")) as stream:
        await stream.until("open")
        file.with_suffix(".new").write_text(entry("other", "o", "read = true"))
        file.with_suffix(".new").rename(file)
        await stream.until("end")
        assert await stream.event() == ("", None)


def test_changes_follow_one_another(system: Gateway) -> None:
    system.runner.run(_followed(system))


async def _followed(gateway: Gateway) -> None:
    store, runtime = gateway.store, gateway.app.state.runtime
    async with Stream(gateway) as stream:
        assert (stream.status, await stream.event()) == (200, ("open", {}))
        publish(store, "new")
        found = await stream.until("tasks")
        while "new" not in [task["id"] for task in found["tasks"]]:
            found = await stream.until("tasks")
        assert found["components"][found["tasks"][-1]["components"]["embedding"]]["tasks"] >= 4
        store.rm("new")
        assert await stream.until("removed") == ["new"]
        runtime.draining = True
        await stream.until("end")
    runtime.draining = False


def test_streams_are_bounded_and_one_that_ends_makes_room(system: Gateway) -> None:
    system.runner.run(_bounded(system))


async def _bounded(gateway: Gateway) -> None:
    room = gateway.app.state.runtime.streams
    before, streams = room.free, [Stream(gateway) for _ in range(room.free)]
    for stream in streams:
        await stream.__aenter__()
    open_ = [stream for stream in streams if stream.status == 200]
    assert len(open_) == before / 2  # one caller's
    assert {stream.status for stream in streams} == {200, 503}
    for stream in streams:
        await stream.__aexit__()
    assert room.free == before


def test_a_task_that_came_and_went_unread_is_named_to_nobody() -> None:
    """Nobody found out whether it was private, so the page reads all tasks again."""
    runtime: Any = SimpleNamespace(catalog=SimpleNamespace(entries=dict))
    public = Grants("reader", read=True)
    assert _told(runtime, {"gone": None}, public) == [b"event: reload\ndata: {}\n\n"]
    assert _told(runtime, {"gone": None}, LOCAL) == [b'event: removed\ndata: ["gone"]\n\n']
    assert _told(runtime, {"gone": False}, public) == [b'event: removed\ndata: ["gone"]\n\n']
    assert _told(runtime, {"gone": True}, public) == []
