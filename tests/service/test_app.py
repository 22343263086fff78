"""The HTTP interface in process: every documented answer."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import jax
import numpy as np
import pytest

from model_store import ModelStore, Published
from service.errors import SettingsError
from service.metrics import instruments
from service.runtime import Runtime
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.systems import image, png, publish, tree_of
from tests.service.waiting import PATIENCE_S, eventually
from vit import Architecture, preprocess
from vit.forward import forward

FORWARD = jax.jit(forward, static_argnums=0)


def expected(store: ModelStore, published: Published, seed: int) -> np.ndarray:
    """Probabilities, computed as evolution computes them."""
    arch = Architecture.from_json(published.path.architecture)
    pixels = preprocess(np.asarray(image(seed)), arch.image_size)
    logits = np.asarray(FORWARD(arch, tree_of(store, published), pixels[None]))[0]
    odds = np.exp(logits - logits.max())
    return odds / odds.sum()


def test_answers_are_those_of_the_network(gateway: Gateway) -> None:
    response = gateway.classify("group/wide", png(1))
    assert response.status_code == 200
    body = response.json()
    assert (body["task"], body["version"]) == ("group/wide", 1)
    odds = expected(gateway.store, gateway.store.resolve("group/wide"), 1)
    best = np.argsort(-odds)[:5]
    assert [p["index"] for p in body["predictions"]] == best.tolist()
    assert [p["label"] for p in body["predictions"]] == [f"group/wide:{i}" for i in best]
    found = [p["probability"] for p in body["predictions"]]
    assert found == pytest.approx(odds[best].tolist(), abs=1e-5)


def test_times_are_told_twice(gateway: Gateway) -> None:
    response = gateway.classify("plain", png(1))
    times = response.json()["timing_ms"]
    assert list(times) == ["receive", "decode", "load", "queue", "execute", "answer", "total"]
    assert all(value >= 0 for value in times.values())
    assert times["total"] >= max(times["decode"], times["execute"])
    header = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert {name: float(value) for name, value in header.items()} == times


@pytest.mark.parametrize("media", ["image/png", "image/anything", "application/octet-stream", ""])
def test_raw_bodies(gateway: Gateway, media: str) -> None:
    headers = {"content-type": media} if media else {}
    response = gateway.request("POST", "/classify/plain", content=png(1), headers=headers)
    assert response.json()["predictions"] == gateway.classify("plain", png(1)).json()["predictions"]


def test_a_form_with_one_file(gateway: Gateway) -> None:
    response = gateway.request(
        "POST", "/classify/plain", files={"any": ("x.png", png(1))}, data={"note": "text"}
    )
    assert response.json()["predictions"] == gateway.classify("plain", png(1)).json()["predictions"]


def test_top_k_and_version(gateway: Gateway) -> None:
    assert len(gateway.classify("group/wide", png(1), "?top_k=7").json()["predictions"]) == 7
    assert len(gateway.classify("plain", png(1)).json()["predictions"]) == 3
    assert gateway.classify("versions", png(1)).json()["version"] == 2
    old = gateway.classify("versions", png(1), "?version=1&top_k=1").json()
    assert old["version"] == 1
    odds = expected(gateway.store, gateway.store.resolve("versions", 1), 1)
    assert old["predictions"][0]["probability"] == pytest.approx(odds.max(), abs=1e-5)


def test_tasks_are_listed(gateway: Gateway) -> None:
    gateway.classify("plain", png(1))
    listed = {task["id"]: task for task in gateway.get("/tasks")["tasks"]}
    assert set(listed) >= {"plain", "group/wide", "versions"}
    plain = listed["plain"]
    assert (plain["state"], plain["version"], plain["classes"]) == ("ready", 1, 3)
    assert plain["quality"] == {"validation": 0.5}
    assert plain["private"] is False
    assert plain["bytes"]["own"] + plain["bytes"]["shared"] == plain["bytes"]["total"]


def test_one_task_in_full(gateway: Gateway) -> None:
    task = gateway.get("/tasks/group/wide")
    assert task["labels"] == [f"group/wide:{i}" for i in range(10)]
    shared = {part["name"]: part["shared_with"] for part in task["components"]}
    assert list(shared)[:2] == ["embedding", "cls"]
    assert shared["encoderblock_0"] == 2
    assert shared["encoderblock_1"] == shared["head"] == 0
    own = sum(part["bytes"] for part in task["components"] if not part["shared_with"])
    assert task["bytes"]["own"] == own
    assert task["metrics"]["validation"]["examples"] == 10
    versions = gateway.get("/tasks/versions")["versions"]
    assert [version["version"] for version in versions] == [1, 2]


def test_health(gateway: Gateway) -> None:
    for path in ("/livez", "/healthz", "/readyz"):
        assert gateway.request("GET", path).status_code == 200
    gateway.app.state.runtime.draining = True
    assert gateway.request("GET", "/readyz").status_code == 503
    assert gateway.request("GET", "/livez").status_code == 200
    gateway.app.state.runtime.draining = False


def test_metrics_tell_what_happened(gateway: Gateway) -> None:
    before = gateway.metric('munet_requests_total{status="200",task="plain"}')
    waited = gateway.metric("munet_queue_delay_seconds_count")
    gateway.classify("plain", png(1))
    assert gateway.metric('munet_requests_total{status="200",task="plain"}') == before + 1
    assert gateway.metric("munet_queue_delay_seconds_count") == waited + 1
    refused_before = gateway.metric('munet_rejected_total{reason="too-large"}')
    gateway.classify("plain", b"x" * 100_001)
    assert gateway.metric('munet_rejected_total{reason="too-large"}') == refused_before + 1
    assert gateway.metric('munet_tasks{state="ready"}') >= 1
    assert gateway.metric("munet_resident_bytes") > 0
    assert gateway.metric("munet_queue_rows") == 0


def test_answers_metrics_and_the_end_wait_for_no_thread_of_asyncio_s(
    tmp_path: Path, compilations: str
) -> None:
    store = ModelStore(tmp_path, create=True)
    publish(store, "plain")
    publish(store, "plain", own={"head": 3})
    store.alias("plain", "stable", 1)
    made = Gateway(store, compilations)
    hanging = threading.Event()

    async def hang() -> None:
        for _ in range(40):  # more than asyncio has
            asyncio.get_running_loop().run_in_executor(None, hanging.wait, PATIENCE_S)

    made.runner.run(hang())
    started = time.monotonic()
    assert made.request("GET", "/metrics").status_code == 200
    for path in ("plain", "plain?version=1", "plain?version=stable"):
        assert (
            made.request("POST", f"/classify/{path}", content=png(1), headers=OCTETS).status_code
            == 200
        )
    made.runner.run(made.lifespan.__aexit__(None, None, None))
    assert time.monotonic() - started < PATIENCE_S
    hanging.set()
    made.runner.close()


def test_a_gateway_that_cannot_start_ends_its_threads(
    tmp_path: Path, compilations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, stopped = Runtime.stop, list[Runtime]()
    monkeypatch.setattr(Runtime, "stop", lambda runtime: stopped.append(runtime) or stop(runtime))
    store = ModelStore(tmp_path, create=True)
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken,
        pytest.raises(SettingsError, match="MUNET_GRPC_PORT"),
    ):
        Gateway(store, compilations, grpc_port=taken.getsockname()[1])
    assert len(stopped) == 1


def test_requests_of_several_tasks_at_once_are_batched(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def burst() -> list[httpx.Response]:
        transport = httpx.ASGITransport(gateway.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            names = ("plain", "group/wide", "versions")
            return await asyncio.gather(*[
                client.post(f"/classify/{names[i % 3]}", content=png(i), headers=OCTETS)
                for i in range(60)
            ])  # fmt: skip

    gateway.runner.run(burst())
    batches = gateway.metric("munet_batch_rows_count")
    batcher = gateway.app.state.runtime.batcher
    run, begun = batcher._runner._run, [0]

    def when_all_wait(rows: Sequence[Any]) -> Any:
        begun[0] += len(rows)
        eventually(lambda: begun[0] + len(batcher) >= 60)
        return run(rows)

    monkeypatch.setattr(batcher._runner, "_run", when_all_wait)
    responses = gateway.runner.run(burst())
    assert {response.status_code for response in responses} == {200}
    assert gateway.metric("munet_batch_rows_count") - batches < 60
    for i, response in enumerate(responses[:6]):
        name = ("plain", "group/wide", "versions")[i % 3]
        odds = expected(gateway.store, gateway.store.resolve(name), i).max()
        found = response.json()["predictions"][0]["probability"]
        assert found == pytest.approx(odds, abs=1e-5)


def test_a_version_can_be_asked_for_by_name(gateway: Gateway) -> None:
    gateway.store.alias("versions", "stable", 1)
    assert gateway.classify("versions", png(1), "?version=stable").json()["version"] == 1
    gateway.store.alias("versions", "stable", 2)
    eventually(
        lambda: gateway.classify("versions", png(1), "?version=stable").json()["version"] == 2
    )
    body = refused(gateway.classify("versions", png(1), "?version=canary"), 404, "unknown-task")
    assert "it has stable" in body["detail"]
    shown = gateway.get("/tasks/versions")["versions"]
    assert [version["names"] for version in shown] == [[], ["stable"]]
    gateway.store.remove_alias("versions", "stable")


def test_however_many_ask_for_the_metrics_one_page_is_made_at_a_time(
    tmp_path: Path, compilations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks is told when a page takes too long, and the end waits for none."""
    made = Gateway(ModelStore(tmp_path, create=True), compilations, deadline_ms=300)
    hanging, pages = threading.Event(), list[object]()
    generate = instruments.generate_latest

    def slow(registry: Any) -> bytes:
        pages.append(registry)
        hanging.wait(20)
        return generate(registry)

    monkeypatch.setattr(instruments, "generate_latest", slow)

    async def many() -> list[httpx.Response]:
        transport = httpx.ASGITransport(made.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(*(client.get("/metrics") for _ in range(100)))

    for response in made.runner.run(many()):
        refused(response, 503, "unavailable")
    assert len(pages) == 1
    made.close()
    assert not hanging.is_set()
    hanging.set()
