"""Unloading a task whose load has not ended."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store import ModelStore, Published
from service.compute.paths import LoadedPath
from tests.service.in_process import Gateway
from tests.service.open_inference.conftest import ADMIN, TOKENS
from tests.service.systems import publish


@pytest.fixture
def gateway(tmp_path: Path, compilations: str) -> Iterator[Gateway]:
    """With one task, and a token that may unload it."""
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain")
    tokens = tmp_path / "tokens.toml"
    digest = hashlib.sha256(ADMIN["authorization"].removeprefix("Bearer ").encode()).hexdigest()
    tokens.write_text(TOKENS.format(digest=digest))
    made = Gateway(store, compilations, tokens=str(tokens))
    yield made
    made.close()


def test_a_task_that_is_loading_is_unloaded_once_loaded(gateway: Gateway) -> None:
    runtime = gateway.app.state.runtime
    slot = runtime.catalog.entries()["plain"].slot
    prepare, gate = runtime.loader.prepare, threading.Event()

    def hold(published: Published, *, pinned: bool) -> LoadedPath:
        assert gate.wait(60)
        return prepare(published, pinned=pinned)

    runtime.loader.prepare = hold
    slot.begin()

    async def open_soon() -> None:
        asyncio.get_running_loop().call_later(0.2, gate.set)

    gateway.runner.run(open_soon())  # in the loop that unloads
    reply = gateway.request("POST", "/v2/repository/models/plain/unload", headers=ADMIN)
    gate.set()
    assert reply.status_code == 200, reply.text
    assert slot.state == "cold"
