"""A real gateway that speaks the protocol over both transports, and one in this process."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from model_store import ModelStore
from service.compute.batching import Batcher, Limits
from service.runtime import Runtime
from tests.service.in_process import Gateway
from tests.service.open_inference.in_process import Blocked
from tests.service.servers import Server
from tests.service.systems import TINY, png, publish
from tests.service.waiting import eventually

ADMIN = {"authorization": "Bearer for-tests"}
WIDE = "group/wide"
TOKENS = """
[[token]]
name = "anonymous"
classify = ["*"]
read = true

[[token]]
name = "admin"
sha256 = "{digest}"
classify = ["*"]
read = true
admin = true
"""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A running gateway, the store it follows, and where it speaks the protocol."""

    server: Server
    store: ModelStore
    http: str
    grpc: str


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Spoken]:
    """`bentoml serve .` with small limits, one admin token and two tasks."""
    folder = tmp_path_factory.mktemp("spoken")
    store = ModelStore(folder / "store", create=True)
    publish(store, "plain")
    publish(store, WIDE, replace(TINY, num_classes=10), own={"encoderblock_1": 1})
    publish(store, WIDE, replace(TINY, num_classes=10), own={"head": 99})
    store.alias(WIDE, "stable", 1)
    tokens = folder / "tokens.toml"
    digest = hashlib.sha256(ADMIN["authorization"].removeprefix("Bearer ").encode()).hexdigest()
    tokens.write_text(TOKENS.format(digest=digest))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "MUNET_STORE": store.url,
        "MUNET_COMPILATION_CACHE": compilations,
        "MUNET_MAX_BATCH_ROWS": "4",
        "MUNET_PRELOAD": "*",
        "MUNET_DRAIN_S": "0.1",
        "MUNET_MAX_BODY_BYTES": "200000",
        "MUNET_GRPC_PORT": str(port),
        "MUNET_TOKENS": str(tokens),
    }
    with Server(".", folder / "home", **variables) as server:
        yield Spoken(server, store, f"127.0.0.1:{server.port}", f"127.0.0.1:{port}")


@pytest.fixture
def runtime(gateway: Gateway) -> Runtime:
    """The gateway's, with its task loaded."""
    eventually(lambda: gateway.classify("plain", png(1)).status_code == 200)
    return gateway.app.state.runtime


@pytest.fixture
def port(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, on which the gateway is set to serve."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = free.getsockname()[1]
    monkeypatch.setattr(runtime, "settings", replace(runtime.settings, grpc_port=found))
    return found


@pytest.fixture
def blocked(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocked]:
    """The gateway with this engine."""
    release, ran = threading.Event(), []

    def run(rows: Sequence[Any]) -> Sequence[Any]:
        ran.append(len(rows))
        release.wait()
        return [np.zeros(3, np.float32) for _ in rows]

    batcher = Batcher[Any, Any](run, Limits(4, 4, 4))
    batcher.start()
    monkeypatch.setattr(runtime, "batcher", batcher)
    yield Blocked(release, ran, batcher)
    release.set()
    batcher.stop()
