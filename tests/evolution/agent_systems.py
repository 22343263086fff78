"""Classes of tiny agents, and publications of others for them to build on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path as File
from typing import Any
from unittest.mock import patch

import jax
import numpy as np

from evolution.agents import kinds
from evolution.agents.agent import Agent
from evolution.agents.kinds import AgentClass
from evolution.events import Event
from evolution.experiments.search_space import MU2NET_PLUS
from evolution.methods import MU3NET, MU4NET
from evolution.population import Score
from evolution.roots import loading
from evolution.roots.loading import random_root
from model_store import ModelStore, Published, TaskPath
from tests.evolution.systems import ROOT, tasks, tiny
from vit import shapes
from vit.preprocess import CONTRACT

THREE = tiny(
    name="three",
    # One shape and augmentation, so that all programs are compiled once.
    method=replace(MU3NET, augments_bytes=False),
    samples_per_task=2,
    ranges={**MU2NET_PLUS, "ds_image_size": (8,)},
    score=Score(0.99, 1e4, 1e5),
)
FOUR = replace(THREE, name="four", method=replace(MU4NET, augments_bytes=False))


@contextmanager
def tiny_classes() -> Iterator[None]:
    """Agents of classes `three` (μ3Net) and `four` (μ4Net), from a tiny root."""
    found = {e.name: AgentClass(e) for e in (THREE, FOUR)}
    with (
        patch.object(kinds, "CLASSES", found),
        patch.object(loading, "load_root", lambda *_: (ROOT, random_root(ROOT))),
    ):
        yield


def run(
    store: ModelStore, agent: str, cycles: int = 1, stop_after: int | None = None, **others: Any
) -> list[Event]:
    """The events of an agent CLASS:TASK; it may be stopped after this many of them."""
    agent_class, _, entry = agent.partition(":")
    running = Agent(store, agent_class, entry, tasks, **others)
    events: list[Event] = []
    for event in running.run(cycles):
        events.append(event)
        running.stopping = len(events) == stop_after
    return events


def publish(
    store: ModelStore,
    agent: str,
    task: str,
    seed: int,
    shared: dict[str, Any] | None = None,
    **fields: Any,
) -> Published:
    """A random single path, but for the `shared` components, as another agent would publish it."""
    rng, arch = np.random.default_rng(seed), replace(ROOT, num_classes=3)

    def random_tree(name: str) -> Any:
        return jax.tree.map(
            lambda p: (0.3 * rng.standard_normal(p.shape)).astype(np.float32), shapes(arch, name)
        )

    components = {name: store.put(random_tree(name)) for name in arch.component_names}
    path = TaskPath(
        task=task,
        labels=("x", "y", "z"),
        architecture=arch.to_json(),
        components={**components, **(shared or {})},
        input={"size": 8, **CONTRACT},
        hyperparameters={},
        metrics={"validation": {"accuracy": 0.3}},
        parameters={},
        lineage={"agent": agent, "method": "mu3net"},
    )
    return store.publish(replace(path, **fields), live=False)


def versions(store: ModelStore, agent: str) -> list[str]:
    """Manifests of what an agent CLASS:TASK has published, oldest first."""
    agent_class, _, task = agent.partition(":")
    name = f"{agent_class}/{task}"
    return [p.digest for p in store.history(task) if p.path.lineage["agent"] == name]


# The command line with these classes and toy tasks; agents' processes are started by it again.
PROGRAM = """
import os
import sys
from unittest.mock import patch
from evolution import __main__ as program
from evolution.agents import supervisor, worker
from tests.evolution.agent_systems import tiny_classes
from tests.evolution.systems import tasks
worker.PATIENCE_S = float(os.environ.get("PATIENCE_S", worker.PATIENCE_S))
command = (sys.executable, "-c", sys.argv[1], sys.argv[1], "agent-process")
known = program.KNOWN_ERRORS
with tiny_classes(), patch.object(program, "work", lambda known: worker.work(known, tasks)):
    supervisor.Supervisor.__init__.__defaults__ = (command,)
    sys.argv[:2] = ["evolution"]
    program.main()
"""


def agents_command(
    store: File | str, cache: File, *arguments: str, **environment: str
) -> subprocess.Popen[str]:
    """`munet experiments agents` as a process of its own; its output is to be read."""
    environment = {
        **os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "COLUMNS": "300", **environment,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, PROGRAM, "agents", "--store", str(store), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True,
    )  # fmt: skip
