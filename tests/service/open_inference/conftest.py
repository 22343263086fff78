"""A real gateway that speaks the protocol over both transports."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from model_store import ModelStore
from tests.service.servers import Server
from tests.service.systems import TINY, publish

ADMIN = {"authorization": "Bearer for-tests"}
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
    publish(store, "group/wide", replace(TINY, num_classes=10), own={"encoderblock_1": 1})
    publish(store, "group/wide", replace(TINY, num_classes=10), own={"head": 99})
    store.alias("group/wide", "stable", 1)
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
