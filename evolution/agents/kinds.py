"""The classes of agents: what an agent of each class runs, for any task.

Sizes, defaults and ranges are those of the published configurations (EXPERIMENTS.md, Agent
classes), as far as agents have them. The user chooses tasks and cycles.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from evolution.agents import mu3net, mu4net, small
from evolution.children import Children
from evolution.data.tasks import Task
from evolution.experiments.experiment import Experiment
from evolution.multipath.children import MultipathPaths
from evolution.population import Population
from evolution.single_path import SinglePaths
from evolution.state import Progress
from model_store import TaskPath

MakeChildren = Callable[[Experiment, Task, Population, Progress, str], Children]


@dataclass(frozen=True, slots=True)
class AgentClass:
    """What all agents of a class have in common."""

    experiment: Experiment  # has the class's name; its task list is replaced by the agent's task
    original: str | None = None  # its name in published checkpoints, whose agents it continues
    children: MakeChildren = SinglePaths
    single: Experiment | None = None  # of the class whose paths a multipath class mixes

    @property
    def name(self) -> str:
        """The class's name, as in agents' ids."""
        return self.experiment.name

    @property
    def rooted(self) -> Experiment:
        """The experiment that has the root of its paths."""
        return self.single or self.experiment

    def of_task(self, entry: str) -> Experiment:
        """The experiment of the agent of a task: one cycle."""
        return replace(self.experiment, tasks=(entry,), passes=1)


CLASSES: Mapping[str, AgentClass] = {
    c.name: c
    for c in (
        AgentClass(mu3net.VIT_T0, "VitT0"),
        AgentClass(mu3net.VIT_T3, "VitT3"),
        AgentClass(mu3net.VIT_B, "VitB"),
        AgentClass(mu3net.VIT_L, "Vit"),
        AgentClass(mu4net.VIT4_T3, "VitT3"),
        AgentClass(mu4net.VIT4_B, "VitB"),
        AgentClass(mu4net.VIT4_L, "Vit"),
        AgentClass(mu4net.MULTIVIT_T3, "MultiVitT3", MultipathPaths, mu4net.VIT4_T3),
        AgentClass(mu4net.MULTIVIT_B, "MultiVitB", MultipathPaths, mu4net.VIT4_B),
        AgentClass(mu4net.MULTIVIT_L, "MultiVit", MultipathPaths, mu4net.VIT4_L),
        AgentClass(small.DEMO_VIT),
        AgentClass(small.DEMO_MULTIVIT, children=MultipathPaths, single=small.DEMO_VIT),
        AgentClass(small.CHARS5_VIT),
        AgentClass(small.CHARS5_MULTIVIT, children=MultipathPaths, single=small.CHARS5_VIT),
    )
}


def class_of(agent: str) -> AgentClass:
    """The class of an agent's id, CLASS/TASK. Raises ValueError."""
    name, _, task = agent.partition("/")
    if name not in CLASSES or not task:
        known = textwrap.fill(", ".join(CLASSES), 90)
        raise ValueError(f"agent {agent!r}: expected CLASS/TASK with CLASS one of\n{known}")
    return CLASSES[name]


_CONTINUED = {
    (c.experiment.method.name, c.original): c.name for c in CLASSES.values() if c.original
}


def publisher_of(path: TaskPath) -> str:
    """The agent or run that published a path; for an import, the agent that continues it."""
    return known_as(str(path.lineage.get("agent")), str(path.lineage.get("method")))


def known_as(agent: str, method: str) -> str:
    """The name of an agent or run here; an imported agent has that of the one that continues it."""
    original, slash, task = agent.partition("/")
    return _CONTINUED.get((method, original), original) + slash + task
