"""A gateway with a task that can have a roll-out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_store import ModelStore, Rollout, Rules
from tests.service.in_process import Gateway
from tests.service.systems import png, publish
from tests.service.waiting import eventually

NEVER = Rules(10**9)  # ends nothing


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """A task of which version 1 is live, and others have another head; and a plain one."""
    made = ModelStore(tmp_path / "store", create=True)
    publish(made, "t", own={"head": 1})
    publish(made, "t", own={"head": 2})
    publish(made, "t", own={"head": 3})
    made.rollback("t", 1)
    publish(made, "plain")
    return made


@pytest.fixture
def gateway(store: ModelStore, compilations: str) -> Iterator[Gateway]:
    made = Gateway(store, compilations, preload="*")
    entries = made.app.state.runtime.catalog.entries
    eventually(lambda: all(one.slot.state == "ready" for one in entries().values()))
    yield made
    made.close()


def begin(gateway: Gateway, version: int = 2, **fields: Any) -> None:
    """Begins a roll-out of `canary`, and waits until the gateway has its version."""
    gateway.store.alias("t", "canary", version, Rollout(**{"rules": NEVER, **fields}))
    rollouts = gateway.app.state.runtime.catalog.rollouts
    eventually(lambda: any(one.slot.path for one in rollouts.active.get("t", ())))


def trial(gateway: Gateway) -> Any:
    """The roll-out in this gateway."""
    (one,) = gateway.app.state.runtime.catalog.rollouts.active["t"]
    return one


def version(gateway: Gateway, seed: int = 0, query: str = "", **headers: str) -> int:
    """Which version answers."""
    response = gateway.classify("t", png(seed), query, **headers)
    assert response.status_code == 200, response.text
    return response.json()["version"]
