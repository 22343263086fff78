"""What the protocol says of tasks that are private, cannot be loaded, or come and go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store import ModelStore
from service.access import Grants
from service.open_inference import models
from service.open_inference.statistics import KEPT_VERSIONS, Tally
from service.request import Request
from service.tasks.entry import Entry
from service.tasks.slot import Slot
from tests.model_store.samples import blob_file
from tests.service.in_process import Gateway, refused
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually

ONE = {"inference-header-content-length": "0"}


@pytest.fixture
def gateway(tmp_path: Path, compilations: str) -> Iterator[Gateway]:
    """A gateway of its own, for tests that change its tasks."""
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain")
    made = Gateway(store, compilations, deadline_ms=10_000)
    yield made
    made.close()


def infer(gateway: Gateway, task: str) -> int:
    path = f"/v2/models/{task}/infer"
    return gateway.request("POST", path, content=png(1), headers=ONE).status_code


def index(gateway: Gateway, **only: bool) -> dict[str, str]:
    found = gateway.request("POST", "/v2/repository/index", json=only).json()
    return {one["name"]: one["state"] for one in found}


def counted(gateway: Gateway) -> dict[str, int]:
    found = gateway.get("/v2/models/stats")["model_stats"]
    return {one["name"]: one["inference_count"] for one in found}


def test_private_tasks_look_like_none(gateway: Gateway) -> None:
    publish(gateway.store, "plain-staff", private=True)
    eventually(lambda: gateway.app.state.runtime.catalog.entries().get("plain-staff"))
    assert list(index(gateway)) == list(counted(gateway)) == ["plain"]
    assert gateway.get("/v2/models") == {"models": ["plain"]}
    for path in ("", "/ready", "/config", "/stats", "/versions/1"):
        refused(gateway.request("GET", f"/v2/models/plain-staff{path}"), 404, "unknown-task")
    assert infer(gateway, "plain-staff") == 404
    near = gateway.request("GET", "/v2/models/plain-staf").json()
    assert near["nearest"] == ["plain"]


def test_admin_calls_need_a_token(gateway: Gateway) -> None:
    for call in ("load", "unload"):
        path = f"/v2/repository/models/plain/{call}"
        refused(gateway.request("POST", path), 403, "forbidden")


def test_states(gateway: Gateway) -> None:
    publish(gateway.store, "broken")
    head = gateway.store.resolve("broken").path.components["head"]
    file = blob_file(gateway.store, head)
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert gateway.request("GET", "/v2/models/broken/ready").json()["ready"]  # nobody asked yet
    assert index(gateway) == {"broken": "UNAVAILABLE", "plain": "UNAVAILABLE"}
    assert index(gateway, ready=True) == {}
    assert infer(gateway, "broken") == 503
    ready = gateway.request("GET", "/v2/models/broken/ready")
    assert (ready.status_code, ready.json()) == (503, {"name": "broken", "ready": False})
    eventually(lambda: infer(gateway, "plain") == 200)
    assert index(gateway, ready=True) == {"plain": "READY"}
    (found,) = gateway.get("/v2/models/broken/stats")["model_stats"]
    assert found["inference_stats"]["fail"]["count"] == 1


def test_a_store_that_hangs_is_not_waited_for(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, hanging = gateway.app.state.runtime, threading.Event()
    monkeypatch.setattr(runtime, "settings", replace(runtime.settings, deadline_ms=200))
    for where, what in ((runtime.store, "newest"), (models, "seen"), (runtime.sharing, "learn")):
        monkeypatch.setattr(where, what, lambda *_: hanging.wait(PATIENCE_S))
    try:
        for path in ("/v2/models/plain", "/v2/models", "/v2/models/stats", "/tasks"):
            refused(gateway.request("GET", path), 503, "unavailable")
    finally:
        hanging.set()


def test_slashes_as_they_are_or_quoted(gateway: Gateway) -> None:
    publish(gateway.store, "group/other")
    for name in ("group/other", "group%2Fother"):
        assert gateway.get(f"/v2/models/{name}")["name"] == "group/other"
        assert gateway.get(f"/v2/models/{name}/versions/1/config")["name"] == "group/other"
        eventually(lambda name=name: infer(gateway, name) == 200)


def test_statistics_go_with_their_task(gateway: Gateway) -> None:
    eventually(lambda: infer(gateway, "plain") == 200)
    assert gateway.classify("plain", png(1)).status_code == 200
    assert counted(gateway)["plain"] == 2  # of every protocol
    gateway.store.rm("plain")
    eventually(lambda: counted(gateway) == {})
    publish(gateway.store, "plain")
    eventually(lambda: counted(gateway) == {"plain": 0})


def test_only_the_latest_versions_are_counted(gateway: Gateway) -> None:
    tally = Tally(gateway.app.state.runtime.catalog.entries)
    for version in range(1, 2 * KEPT_VERSIONS + 1):
        for task in ("plain", "nothing"):
            request = Request("http", [task], status=200, versions=[version], rows=1)
            request.end()
            request.seconds = {**request.seconds, "execute": 0.001}
            tally.count(request)
    found = tally.content(["plain", "nothing"])
    assert [one["version"] for one in found] == [str(KEPT_VERSIONS + i) for i in range(1, 9)]
    assert {one["name"] for one in found} == {"plain"}
    assert found[0]["inference_stats"]["compute_infer"] == {"count": 1, "ns": 1_000_000}


def test_lists_of_all_models_take_no_thread_of_facts_and_are_made_beside_the_event_loop(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, hanging = gateway.app.state.runtime, threading.Event()
    seen, content, threads = models.seen, runtime.tally.content, list[str]()

    def noted(tasks: Iterable[str]) -> list[dict[str, Any]]:
        threads.append(threading.current_thread().name)
        return content(tasks)

    monkeypatch.setattr(models, "seen", lambda *of: hanging.wait(PATIENCE_S) and seen(*of))
    monkeypatch.setattr(runtime.tally, "content", noted)

    async def story() -> list[httpx.Response]:
        transport = httpx.ASGITransport(gateway.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            paths = ["/v2/models/stats", "/v2/models"] * 3
            lists = [asyncio.create_task(client.get(path)) for path in paths]
            async with asyncio.timeout(PATIENCE_S):
                while len(runtime.lists._asked) < len(lists):  # more than threads of facts
                    await asyncio.sleep(0.01)
            metadata = await client.get("/v2/models/plain")
            hanging.set()
            return [metadata, *await asyncio.gather(*lists)]

    assert [one.status_code for one in gateway.runner.run(story())] == [200] * 7
    assert len(threads) == 3
    assert all(name.startswith("lists") for name in threads)


def test_statistics_of_many_tasks_keep_no_batch_waiting(gateway: Gateway) -> None:
    tally = Tally(gateway.app.state.runtime.catalog.entries)

    def tasks() -> Iterator[str]:
        for _ in range(3):
            assert not tally._lock.locked()  # which the engine's thread takes
            yield "plain"

    assert len(tally.content(tasks())) == 3


def test_the_other_reading_of_a_path_is_not_waited_for_without_end(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store does not say whether the caller may know of the model that it names."""
    runtime, hanging = gateway.app.state.runtime, threading.Event()
    monkeypatch.setattr(runtime, "settings", replace(runtime.settings, deadline_ms=200))
    publish(gateway.store, "plain/ready")
    eventually(lambda: "plain/ready" in runtime.catalog.entries())
    monkeypatch.setattr(Entry, "read_private", lambda _: hanging.wait(20))
    monkeypatch.setattr(Slot, "summarised", False)
    monkeypatch.setattr(Grants, "sees", lambda *_, **__: False)
    try:
        refused(gateway.request("GET", "/v2/models/plain/ready"), 503, "unavailable")
        assert not hanging.is_set()
    finally:
        hanging.set()
