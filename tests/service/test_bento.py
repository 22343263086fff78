"""The built Bento: holds the gateway and nothing else, serves a store, drains when stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store import ModelStore
from tests.service.conftest import Served
from tests.service.servers import ROOT, Load, Server, environment
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually

VERSION = "test"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A BentoML home with the built Bento."""
    folder = tmp_path_factory.mktemp("bento")
    command = [sys.executable, "-m", "bentoml", "build", "--version", VERSION]
    built = subprocess.run(
        command, cwd=ROOT, env=environment(folder), capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stdout + built.stderr
    yield folder


def test_holds_no_training_code_and_no_tests(home: Path) -> None:
    source = home / "bentos" / "munet-gateway" / VERSION / "src"
    folders = {path.name for path in source.iterdir() if path.is_dir()}
    assert folders == {"service", "vit", "model_store"}
    assert (source / "service" / "gateway.py").is_file()
    assert not list(source.rglob("__pycache__"))


def test_serves_a_store_compiles_nothing_and_drains(
    home: Path, tmp_path: Path, compilations: str, served: Served
) -> None:
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain")
    variables = {
        "MUNET_STORE": os.path.relpath(
            Path(store.url), ROOT
        ),  # from here, not from the Bento's folder
        "MUNET_COMPILATION_CACHE": compilations,
        "MUNET_MAX_BATCH_ROWS": "4",
        "MUNET_PRELOAD": "*",
        "MUNET_DRAIN_S": "3",
    }
    served.server.classify("plain", png(1))  # now every program is in the cache
    with Server(f"munet-gateway:{VERSION}", home, **variables) as server:
        assert 'munet_compilations_total{source="compiler"}' not in server.metrics()
        assert 'munet_tasks{state="ready"} 1.0' in server.metrics()
        assert server.classify("plain", png(1)).status == 200
        with Load(server, ["plain"], png(1)) as load:
            eventually(lambda: len(load.replies) > 10)
            server.process.terminate()
            eventually(lambda: server.ask("GET", "/readyz").status == 503)
            answered = len(load.replies)
            eventually(lambda: len(load.replies) > answered + 5)  # unready, and still answering
            assert server.process.wait(PATIENCE_S) == 0
        assert {reply.status for _, reply in load.replies} == {200}
        assert len(load.broken) == load.clients  # each ended by the closing of its connection


@pytest.mark.parametrize(
    ("store", "reason"), [("", "MUNET_STORE is not set"), ("/nowhere/store", "/nowhere/store")]
)
def test_without_a_store_it_ends_with_one_line(tmp_path: Path, store: str, reason: str) -> None:
    server = Server(".", tmp_path, MUNET_STORE=store)
    try:
        assert server.process.wait(PATIENCE_S) == 1
    finally:
        server.__exit__(None, None, None)
    log = server.log.read_text()
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert reason in errors[0]
    assert "Traceback" not in log
