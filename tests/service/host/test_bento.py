"""The built Bento: holds the gateway and nothing else, serves a store, drains when stopped."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.exposition import parse
from model_store import ModelStore
from tests.service.conftest import Served
from tests.service.host.running import read
from tests.service.servers import ROOT, Load, Server, ask, environment
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually

VERSION = "test"
POST = b"POST /classify/plain HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"


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
    assert (source / "service" / "host" / "gateway.py").is_file()
    assert not list(source.rglob("__pycache__"))


def test_its_image_has_the_locked_packages_and_no_root(home: Path) -> None:
    packed = home / "bentos" / "munet-gateway" / VERSION / "env"
    file = (packed / "docker" / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", file, re.MULTILINE) == ["python:3.11-slim"]
    assert re.findall(r"^USER (\S+)", file, re.MULTILINE)[-1] == "bentoml"
    assert "BENTO_USER_UID=1034" in file  # the user of deploy/kubernetes/deployment.yaml
    assert "ENV BENTOML_DO_NOT_TRACK" in file
    assert "EXPOSE 3000" in file
    package = re.compile(r"^[a-z0-9._-]+==\S+", re.MULTILINE)
    locked = package.findall((ROOT / "requirements-serve.lock").read_text())
    installed = (packed / "python" / "requirements.txt").read_text()
    assert len(locked) > 50
    assert set(locked) <= set(package.findall(installed))
    assert installed.count("--hash=sha256:") >= len(locked)


def test_serves_a_store_compiles_nothing_and_drains(
    home: Path, tmp_path: Path, compilations: str, served: Served
) -> None:
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain")
    variables = {
        # Both are meant from here, not from the Bento's folder.
        "MUNET_STORE": os.path.relpath(store.url, ROOT),
        "MUNET_COMPILATION_CACHE": os.path.relpath(compilations, ROOT),
        "MUNET_MAX_BATCH_ROWS": "4",
        "MUNET_PRELOAD": "*",
        "MUNET_DRAIN_S": "2",
    }
    served.server.classify("plain", png(1))  # now every program is in the cache
    with Server(f"munet-gateway:{VERSION}", home, **variables) as server:
        assert 'munet_compilations_total{source="compiler"}' not in server.metrics()
        assert 'munet_tasks{state="ready"} 1.0' in server.metrics()
        assert server.classify("plain", png(1)).status == 200
        upload = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
        with Load(server, ["plain"], png(1)) as load, upload:
            upload.sendall(POST % len(png(1)) + png(1)[:10])
            eventually(lambda: len(load.replies) > 10)
            assert "connection" not in load.replies[-1][1].headers
            server.process.terminate()
            eventually(lambda: server.ask("GET", "/readyz").status == 503)
            answered = len(load.replies)
            eventually(lambda: len(load.replies) > answered + 5)  # unready, and still answering
            assert load.replies[-1][1].headers["connection"] == "close"
            eventually(lambda: len(load.broken) == load.clients)  # the listener is closed
            upload.sendall(png(1)[10:])  # which was begun before
            assert read(upload).startswith(b"HTTP/1.1 200 ")
            assert server.process.wait(PATIENCE_S) == 0
        assert {reply.status for _, reply in load.replies} == {200}
        assert {type(error) for error in load.broken} == {ConnectionRefusedError}


def test_no_path_that_somebody_makes_up_mints_a_series(served: Served) -> None:
    """Ours and those of BentoML's own metrics, which label by raw path and must stay off."""
    server = served.server
    kinds = ["/classify/{}", "/tasks/{}", "/v2/models/{}/infer", "/v2/models/{}", "/{}", "/{}/{}"]

    def junk(number: int) -> None:
        connection = server.connect()
        for index in range(number, number + 100):
            path = kinds[index % len(kinds)].format(*[f"junk{index}"] * 2)
            ask(connection, ("GET", "POST")[index % 2], path, b"x", {"content-type": "image/png"})
        connection.close()

    junk(0)  # every kind of refusal has its series now
    before = set(parse(server.metrics()))
    for number in range(100, 1100, 100):
        junk(number)
    assert set(parse(server.metrics())) == before
    assert "junk" not in server.metrics()
    files = server.log.parent / "prometheus_multiproc_dir"  # of BentoML's home
    assert not files.exists() or not list(files.iterdir())


@pytest.mark.parametrize(
    ("store", "reason"),
    [("", "MUNET_STORE is not set"), ("ftp://somewhere", "expected a directory")],
)
def test_without_a_store_it_ends_with_one_line(tmp_path: Path, store: str, reason: str) -> None:
    server = Server(".", tmp_path, MUNET_STORE=store)
    try:
        assert server.process.wait(PATIENCE_S) == 2
    finally:
        server.__exit__(None, None, None)
    log = server.log.read_text()
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert reason in errors[0]
    assert "Traceback" not in log


def test_a_gateway_that_starts_without_its_store_waits_for_it(
    tmp_path: Path, compilations: str
) -> None:
    """Whether the store answers is no setting: the gateway is there, and not ready yet."""
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain")
    away = tmp_path / "away"
    Path(store.url).rename(away)
    variables = {"MUNET_STORE": store.url, "MUNET_COMPILATION_CACHE": compilations}
    server = Server(".", tmp_path / "home", **variables)
    try:
        eventually(lambda: answers(server, "/livez") == 200)
        assert answers(server, "/readyz") == 503
        refused = server.classify("plain", png(1))
        assert refused.status == 503 and refused.headers["retry-after"]
        assert server.log.read_text().count("warning: ") == 1
        away.rename(store.url)
        with server:  # waits until it is ready
            assert server.classify("plain", png(1)).status == 200
            assert server.classify("missing", png(1)).status == 404
    finally:
        server.__exit__(None, None, None)


def answers(server: Server, path: str) -> int:
    try:
        return server.ask("GET", path).status
    except OSError:
        return 0
