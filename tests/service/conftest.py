"""What all tests of the gateway share: a folder of compiled programs, a real server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from model_store import ModelStore
from service.compute.engine import Engine
from service.metrics.instruments import Metrics
from service.tasks.eviction import Budget, Recency
from service.tasks.residency import Residency
from tests.service.in_process import Gateway
from tests.service.servers import Server
from tests.service.systems import TINY, publish
from tests.service.turns import Turns

MAX_ROWS = 4  # of a batch: few programs to compile


@pytest.fixture(scope="session")
def compilations(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Compiled programs of this run, so that each is compiled once for all tests and servers."""
    folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
    _compile(folder, tmp_path_factory.mktemp("store"))
    return folder


def _compile(folder: str, root: Path) -> None:
    """What most tests need: no request's deadline has to bear a slow machine's compiler."""
    store, metrics = ModelStore(root, create=True), Metrics()
    engine = Engine(metrics, max_rows=MAX_ROWS, compilation_cache=folder)
    budget = Budget(2**30, Recency(metrics))
    engine.warm(Residency(store, engine.place, metrics, budget).load(publish(store, "plain")))
    engine.programs.wait()
    engine.close()


@dataclass(frozen=True, slots=True)
class Served:
    """A running gateway and the store it follows."""

    server: Server
    store: ModelStore
    turns: Turns  # of its event loop


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Served]:
    """`bentoml serve .` with three tasks, for all tests that need a real server."""
    folder = tmp_path_factory.mktemp("served")
    store = ModelStore(folder / "store", create=True)
    publish(store, "plain")
    publish(store, "group/other", own={"encoderblock_1": 1})
    publish(store, "changing")
    variables = {
        "MUNET_STORE": store.url,
        "MUNET_COMPILATION_CACHE": compilations,
        "MUNET_MAX_BATCH_ROWS": str(MAX_ROWS),
    }
    turns = Turns(folder)
    with Server(".", folder / "home", **variables, **turns.variables) as server:
        yield Served(server, store, turns)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    """The app in this process with tasks that share components, and small limits."""
    store = ModelStore(tmp_path_factory.mktemp("store"), create=True)
    publish(store, "plain")
    publish(store, "group/wide", replace(TINY, num_classes=10), own={"encoderblock_1": 1})
    publish(store, "versions")
    publish(store, "versions", own={"head": 99})
    made = Gateway(store, compilations, max_body_bytes=100_000, max_pixels=10_000)
    yield made
    made.close()
