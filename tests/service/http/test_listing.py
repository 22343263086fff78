"""The list of tasks comes in pages, and reads of the store only what it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_store import ModelStore
from service.http.listing import _facts
from service.tasks.summaries import Summary
from tests.service.in_process import Gateway, refused
from tests.service.systems import publish

NAMES = [f"t{i}" for i in range(5)]


@pytest.fixture
def five(tmp_path: Path, compilations: str) -> Iterator[Gateway]:
    store = ModelStore(tmp_path, create=True)
    for task in NAMES:
        publish(store, task)
    made = Gateway(store, compilations)
    yield made
    made.close()


def test_pages_follow_one_another(five: Gateway) -> None:
    seen: list[str] = []
    after: str | None = ""
    pages = 0
    while after is not None:
        page = five.get(f"/tasks?limit=2&after={after}")
        seen += [task["id"] for task in page["tasks"]]
        after = page.get("next")
        pages += 1
    assert seen == NAMES
    assert pages == 3
    assert five.get("/tasks?after=t3")["tasks"][0]["id"] == "t4"
    assert five.get("/tasks?after=t4") == {"tasks": []}


def test_a_page_says_of_a_task_what_the_whole_list_says(five: Gateway) -> None:
    whole = five.get("/tasks")["tasks"]
    assert five.get("/tasks?limit=1&after=t1")["tasks"] == [whole[2]]
    assert whole[2]["bytes"]["own"] == 4 * (32 * 3 + 3) + 192  # the head, with its header


@pytest.mark.parametrize(
    "limit", ["0", "501", "-1", "x", "1" * 5000, "00000000100000", "000000001" + "0" * 5000]
)
def test_other_limits_are_refused(five: Gateway, limit: str) -> None:
    body = refused(five.request("GET", f"/tasks?limit={limit}"), 422, "bad-parameter")
    assert "1 to 500" in body["detail"]


def test_what_is_known_of_a_task_is_not_read_again(
    five: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = five.get("/tasks")
    read: list[str] = []
    store = five.app.state.runtime.store
    resolve = store.resolve
    monkeypatch.setattr(store, "resolve", lambda *which: read.append(which[0]) or resolve(*which))
    assert five.get("/tasks") == first
    assert read == []
    publish(five.store, "t1", own={"head": 9})
    publish(five.store, "t5")
    five.runner.run(_looked(five))
    assert len(five.get("/tasks")["tasks"]) == 6
    assert sorted(read) == ["t1", "t5"]


def test_bytes_are_a_tasks_own_where_no_other_task_is_known_to_use_them() -> None:
    """Nobody at all, where the version has just come and is not counted yet."""
    parts = {"new": 0, "own": 1, "shared": 2}
    summary = Summary(
        "digest", "", 2, None, {}, {}, None, False, tuple(parts), (1, 10, 100), (), {}, None
    )
    known: Any = SimpleNamespace(users=parts.get, name=lambda _: None)
    assert _facts(summary, known)["bytes"] == {"total": 111, "own": 11, "shared": 100}


async def _looked(gateway: Gateway) -> None:
    import asyncio

    await asyncio.wrap_future(gateway.app.state.runtime.catalog.refresh())
