"""A gateway whose tasks do not all fit in its memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from model_store import ModelStore, Published
from service.tasks import residency
from tests.service import deadlines
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.systems import TINY, png, publish
from tests.service.waiting import PATIENCE_S, eventually

NAMES = [f"t{i}" for i in range(6)]


def size(published: Published, *names: str) -> int:
    """Bytes in memory: a head of TINY has 16 classes there."""
    sizes = {**published.sizes, "head": 4 * 16 * (TINY.width + 1)}
    return sum(sizes[name] for name in names or sizes)


@pytest.fixture
def tight(tmp_path: Path, compilations: str) -> Iterator[Gateway]:
    """Room for the shared components and those of three tasks, one of which is pinned."""
    store = ModelStore(tmp_path, create=True)
    tasks = [publish(store, task) for task in NAMES]
    budget = size(tasks[0]) + 2 * size(tasks[0], "head")
    made = Gateway(store, compilations, memory_budget=budget, pin="t0")
    yield made
    made.close()


def states(gateway: Gateway) -> dict[str, str]:
    return {task["id"]: task["state"] for task in gateway.get("/tasks")["tasks"]}


def test_tasks_take_turns_in_memory_and_all_answer(tight: Gateway) -> None:
    budget = tight.metric("munet_memory_budget_bytes")
    before = tight.metric("munet_component_loads_total")  # for the first answer
    alone = {task: tight.classify(task, png(1)).json()["predictions"] for task in NAMES}
    for turn in range(18):
        task = NAMES[(turn * 5) % 6]
        assert tight.classify(task, png(1)).json()["predictions"] == alone[task]
        assert tight.metric("munet_resident_bytes") <= budget
    found = states(tight)
    assert found["t0"] == "ready"
    assert sorted(found.values()) == ["cold"] * 3 + ["ready"] * 3
    assert tight.metric("munet_evictions_total") == tight.metric("munet_cache_misses_total") - 3
    assert tight.metric("munet_age_at_eviction_seconds_count") > 0
    loads = tight.metric("munet_component_loads_total") - before
    assert loads < 9 + tight.metric("munet_cache_misses_total")


def test_many_requests_at_once_are_all_answered(
    tight: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines.without(tight, monkeypatch)
    monkeypatch.setattr(residency, "ROOM_WAIT_S", PATIENCE_S)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(tight.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(
                *(
                    client.post(f"/classify/{NAMES[i % 6]}", content=png(i), headers=OCTETS)
                    for i in range(48)
                )
            )

    assert [reply.status_code for reply in tight.runner.run(ask())] == [200] * 48
    assert tight.metric("munet_resident_bytes") <= tight.metric("munet_memory_budget_bytes")


def test_a_new_version_takes_over_where_room_has_to_be_made_for_it(tight: Gateway) -> None:
    for task in NAMES[:3]:
        tight.classify(task, png(1))
    publish(tight.store, "t2", own={"head": 99})
    eventually(lambda: tight.classify("t2", png(1)).json()["version"] == 2)
    assert tight.classify("t0", png(1)).status_code == 200
    assert tight.metric("munet_resident_bytes") <= tight.metric("munet_memory_budget_bytes")


def test_a_task_that_cannot_fit_fails_alone_and_says_what_to_set(tight: Gateway) -> None:
    tight.classify("t0", png(1))
    publish(tight.store, "large", replace(TINY, num_classes=500))
    publish(tight.store, "second", own={"encoderblock_0": 1, "encoderblock_1": 1})
    body = refused(tight.classify("large", png(1)), 503, "unavailable")
    assert "MUNET_MEMORY_BUDGET" in body["detail"] and "MUNET_PIN" not in body["detail"]
    body = refused(tight.classify("second", png(1)), 503, "unavailable")
    assert "MUNET_MEMORY_BUDGET" in body["detail"] and "MUNET_PIN" in body["detail"]
    assert (states(tight)["large"], states(tight)["second"]) == ("failed", "failed")
    assert tight.classify("t1", png(1)).status_code == 200


def test_a_failed_load_leaves_nothing_in_memory(tight: Gateway) -> None:
    """Without a garbage collection, as what failed loads hold would count against the budget."""
    tight.classify("t1", png(1))
    path = tight.store.resolve("t1").path
    head = publish(tight.store, "w", replace(TINY, num_classes=5)).path.components["head"]
    tight.store.publish(replace(path, task="bad", components={**path.components, "head": head}))
    before = tight.metric("munet_resident_bytes")
    gc.disable()
    try:
        refused(tight.classify("bad", png(1)), 503, "unavailable")
        assert tight.metric("munet_resident_bytes") == before
    finally:
        gc.enable()
