"""A real HAProxy with the shipped configuration, in front of real gateways on one store."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from loadtests.gateways import kill_tree
from loadtests.replicas.proxy import Proxy
from model_store import ModelStore
from tests.model_store.registries import program
from tests.service.conftest import compilations
from tests.service.servers import ROOT, Load, Reply, Server, ask
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually

__all__ = ["compilations"]
TASKS = ("plain", "group/other", "third", "fourth")


@dataclass(frozen=True, slots=True)
class Replicas:
    """Gateways on one store, and the proxy in front of them."""

    gateways: Sequence[Server]  # replica1, replica2 …
    proxy: Proxy
    grpc_port: int  # of the proxy

    def ask(self, method: str, path: str, body: bytes = b"") -> Reply:
        """One request to the proxy, on a connection of its own."""
        connection = self.gateways[0].connect()
        connection.port = self.proxy.port
        try:
            return ask(connection, method, path, body, {"content-type": "image/png"})
        finally:
            connection.close()

    def classify(self, task: str) -> Reply:
        return self.ask("POST", f"/classify/{task}", png(1))

    def home(self, method: str, path: str, body: bytes = b"") -> str:
        """Which replica a request is given to."""
        before = self.proxy.sent()
        self.ask(method, path, body)
        (found,) = (name for name, count in self.proxy.sent().items() if count > before[name])
        return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(folder: Path, compilations: str, count: int, **variables: str) -> Replicas:
    """This many gateways, started at once, and their proxy."""
    program("haproxy", "haproxy")
    store = ModelStore(folder / "store", create=True)
    for task in TASKS:
        publish(store, task)
    settings = {
        "MUNET_STORE": store.url,
        "MUNET_COMPILATION_CACHE": compilations,
        "MUNET_MAX_BATCH_ROWS": "4",
        "MUNET_TOKENS": str(ROOT / "deploy/kubernetes/tokens.toml"),
        **variables,
    }
    ports = [free_port() for _ in range(count + 1)]
    gateways = [
        Server(".", folder / f"home{port}", **settings, MUNET_GRPC_PORT=str(port))
        for port in ports[1:]
    ]
    try:
        for gateway in gateways:
            eventually(gateway.ready, 180.0)
        proxy = Proxy(
            folder / "proxy",
            [gateway.port for gateway in gateways],
            grpc=ports[1:],
            grpc_port=ports[0],
        )
    except BaseException:
        stop(gateways)
        raise
    return Replicas(gateways, proxy, ports[0])


def stop(gateways: Sequence[Server]) -> None:
    """At once, with what they leave behind."""
    for gateway in gateways:
        kill(gateway)


def kill(gateway: Server) -> None:
    """As a machine that fails: main process and worker, and nothing listens any more."""
    kill_tree(gateway.process)

    def refused() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", gateway.port)) != 0

    eventually(refused)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Replicas]:
    found = start(tmp_path_factory.mktemp("two"), compilations, 2, MUNET_DRAIN_S="15")
    yield found
    found.proxy.stop()
    stop(found.gateways)


def test_each_task_has_a_replica_and_each_replica_has_tasks(two: Replicas) -> None:
    homes = {task: two.home("POST", f"/classify/{task}", png(1)) for task in TASKS}
    assert set(homes.values()) == {"replica1", "replica2"}
    before = two.proxy.sent()
    for _ in range(3):
        for task, home in homes.items():
            assert two.classify(task).json["task"] == task
            before[home] += 1
    assert two.proxy.sent() == before
    for home, gateway in zip(("replica1", "replica2"), two.gateways, strict=True):
        loaded = {
            one["id"]
            for one in gateway.ask("GET", "/tasks").json["tasks"]
            if one["state"] == "ready"
        }
        assert loaded == {task for task, of in homes.items() if of == home}


def test_grpc_goes_through_to_any_replica(two: Replicas) -> None:
    client: Any = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{two.grpc_port}")
    image = tritonclient.grpc.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[png(1)]], object))
    assert client.infer("plain", [image]).as_numpy("probabilities").shape == (1, 3)
    client.close()


def test_a_killed_replica_s_tasks_are_answered_by_the_other_and_a_drained_one_gets_nothing_new(
    two: Replicas,
) -> None:
    first, second = two.gateways
    kill(first)
    for _ in range(3):  # before HAProxy has noticed, and after
        assert {two.classify(task).status for task in TASKS} == {200}
    eventually(lambda: two.proxy.states()["replica1"]["status"] == "DOWN")
    assert two.classify("plain").status == 200

    second.process.terminate()  # it answers for MUNET_DRAIN_S more
    eventually(lambda: two.proxy.states()["replica2"]["status"] == "DOWN")
    told = two.proxy.states()["replica2"]
    assert (told["check_status"], told["check_code"]) == ("L7STS", "503"), "unready, not gone"
    before = two.proxy.sent()
    assert {two.classify(task).status for task in TASKS} == {503}
    assert two.proxy.sent() == before


@pytest.mark.slow
def test_replicas_that_end_one_after_the_other_fail_no_request(
    tmp_path: Path, compilations: str
) -> None:
    three = start(tmp_path, compilations, 3)
    try:
        through = three.gateways[0]
        port, through.port = through.port, three.proxy.port
        with Load(through, TASKS, png(1)) as load:
            eventually(lambda: len(load.replies) > 50)
            for gateway in three.gateways[:2]:
                gateway.process.terminate()
                gateway.process.wait(PATIENCE_S)
                seen = len(load.replies)
                eventually(lambda seen=seen: len(load.replies) > seen + 50)
        through.port = port
        assert load.broken == []
        assert {reply.status for _, reply in load.replies} == {200}
    finally:
        three.proxy.stop()
        stop(three.gateways)
