"""Agents on a real Ray cluster of several nodes, one of which is killed; `make test-ray`."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra `ray`: make test-ray")

from ray.cluster_utils import Cluster as Nodes

from evolution import state
from evolution.agents.ray_cluster import Cluster
from evolution.agents.view import Report
from evolution.agents.worker import Order
from model_store import ModelStore
from model_store.upkeep import verify_store
from tests.evolution import systems
from tests.model_store.object_stores import s3_server

TOP = Path(__file__).parents[3]
SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
SETTINGS = (
    "batch_size=32", "train_examples_per_round=64", "validation_examples=48", "rounds_per_child=1",
    "samples_per_task=4", "defaults.ds_image_size=8",
)  # fmt: skip
CYCLES = 3


class Listener:
    """In place of a view: keeps what is told, and lets a test act on it."""

    def __init__(self, act: Callable[[Report], None] = lambda _: None) -> None:
        self.said: list[str] = []
        self._act = act

    def show(self, report: Report) -> None:
        self.said.append(report.line)
        self._act(report)

    def say(self, line: str) -> None:
        self.said.append(line)

    def nodes(self, agent: str) -> list[str]:
        """Those it ran on, by the beginnings of their ids."""
        found = re.compile(rf"{agent}: on node (\w+)")
        return [match[1] for line in self.said if (match := found.match(line))]


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """A store's place in an object store, which nodes that are started now know how to reach."""
    folder = tmp_path_factory.mktemp("s3")
    with s3_server(folder) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUNET_CACHE", str(folder / "cache"))
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server.url("store")


@pytest.fixture(scope="module")
def nodes(url) -> Iterator[Nodes]:
    """Three nodes of two processors next to the head, which runs nothing."""
    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
    for _ in range(3):
        cluster.add_node(num_cpus=2, object_store_memory=SMALL["object_store_memory"])
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def test_a_node_is_killed_and_every_agent_comes_to_its_end(nodes, url):
    victim = "demo-vit/toy/b"

    def kill(report: Report) -> None:
        if report.agent == victim and " v1" in report.line and len(listener.nodes(victim)) == 1:
            where = listener.nodes(victim)[0]
            node = next(node for node in nodes.worker_nodes if node.node_id.startswith(where))
            nodes.remove_node(node, allow_graceful=False)

    listener = Listener(kill)
    tasks = ("toy/a", "toy/b", "toy/c")
    orders = [Order(url, "demo-vit", task, CYCLES, settings=SETTINGS) for task in tasks]
    running = Cluster(nodes.address, orders, listener, source=systems.tasks)
    assert running.run() == [], listener.said
    assert len(set(listener.nodes(victim))) == 2, listener.said
    assert any(line.startswith(f"{victim} lost its actor") for line in listener.said)
    store = ModelStore(url)
    assert verify_store(store) == []
    for task in tasks:
        progress, _ = state.load(store, f"demo-vit/{task}")
        assert progress.iteration == CYCLES
        assert len(progress.history) == CYCLES * 4
    assert {p.path.lineage["agent"].rpartition("/")[2] for p in store.publications()} == set("abc")


def test_the_command_runs_agents_on_the_cluster_and_tells_what_ends_them(nodes, url):
    def agents(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "evolution", "agents", "--store", url]
        command += ["--ray", nodes.address, "--agent", "demo-vit:cmaterdb/bangla", *more]
        command += [word for setting in SETTINGS for word in ("--set", setting)]
        return subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)

    done = agents()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo-vit/cmaterdb/bangla: on node" in done.stdout
    assert "published as v1" in done.stdout
    refused = agents("--cycles", "2", "--seed", "7")
    assert refused.returncode == 1
    assert "cannot go on: agent demo-vit/cmaterdb/bangla began with another seed" in refused.stdout
