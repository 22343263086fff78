"""The classes of agents: what an agent of each class runs, for any task.

Sizes, defaults and ranges are those of the published configurations (EXPERIMENTS.md, Agent
classes), as far as agents have them. The user chooses tasks and cycles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from evolution.children import Children
from evolution.data.tasks import Task
from evolution.experiments import search_space
from evolution.experiments.experiment import (
    DEMO,
    EXPERIMENTS,
    PLUS_CHARS,
    PLUS_CMATERDB,
    PLUS_VDD,
    PLUS_VIT,
    Experiment,
)
from evolution.experiments.search_space import DEFAULTS, NO_AUGMENTATION, SHAPE
from evolution.methods import MU3NET, MU4NET
from evolution.multipath.children import MultipathPaths
from evolution.multipath.sampling import MAIN_WEIGHT, NUM_PATHS, ROUTER_RATE
from evolution.population import Population, Score
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


# ---- μ3Net: single-path agents that follow μ2Net+

VIT_T3 = replace(PLUS_CHARS, name="vit-ti3", method=MU3NET)
VIT_T0 = replace(PLUS_CMATERDB, name="vit-ti0", method=MU3NET)
VIT_B = replace(PLUS_VDD, name="vit-b", method=MU3NET)
VIT_L = replace(PLUS_VIT, name="vit-l", method=MU3NET)

# ---- μ4Net: no adapters; one score for all sizes

_DEFAULTS_4 = {
    **DEFAULTS,
    **NO_AUGMENTATION,
    "_mu_": 0.2,
    "opt_lr": 0.02,
    "opt_lr_warmup_ratio": 0.02,
    "opt_momentum": 0.8,
    "opt_nesterov": True,
}
_RANGES_4 = {
    **search_space.MU2NET_PLUS,
    "opt_lr": (*search_space.MU2NET_PLUS["opt_lr"], 1.0),
    "ds_image_size": tuple(range(16, 113, 16)),
}


def _blocks_to(most: int) -> dict[str, tuple[int, ...]]:
    return {"num_layers": tuple(range(most + 1))}


VIT4_T3 = replace(
    VIT_T3,
    name="vit4-ti3",
    method=MU4NET,
    samples_per_task=16,
    train_examples_per_round=300_000,
    validation_examples=10_000,
    max_population=5,
    defaults=_DEFAULTS_4,
    ranges={**_RANGES_4, **_blocks_to(3)},
    score=Score(0.99, reference_params=2.2e9, reference_flops=3.8e12),
    mutate_adapters=False,
)
VIT4_B = replace(
    VIT4_T3,
    name="vit4-b",
    root=VIT_B.root,
    batch_size=256,
    defaults={**_DEFAULTS_4, "num_layers": 12, "ds_image_size": 80},
    ranges={**_RANGES_4, **_blocks_to(12)},
)
VIT4_L = replace(
    VIT4_T3,
    name="vit4-l",
    root=VIT_L.root,
    batch_size=16,
    defaults={**_DEFAULTS_4, "num_layers": 24, "ds_image_size": 384},
    # One block more than the root has.
    ranges={**_RANGES_4, **_blocks_to(25), "ds_image_size": (224, 384)},
)

# ---- for 2 cores, from the shipped root

DEMO_VIT = replace(
    DEMO,
    name="demo-vit",
    method=MU4NET,
    defaults={**DEMO.defaults, **NO_AUGMENTATION},
    ranges={k: v for k, v in DEMO.ranges.items() if not k.startswith("ds_")},
)

# ---- as large as the runs that make compare-agents compares with agents

CHARS5_VIT = replace(EXPERIMENTS["mu2net-plus-chars5"], name="chars5-vit", method=MU3NET)

# ---- μ4Net's multipath agents: shapes are those of their paths, the score is the quality

_MIXING = {ROUTER_RATE: (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), NUM_PATHS: (2, 3)}


def _multipath(single: Experiment, name: str) -> Experiment:
    mixing = {MAIN_WEIGHT: 0.8, ROUTER_RATE: 0.05, NUM_PATHS: 2}
    return replace(
        single,
        name=name,
        defaults={k: v for k, v in single.defaults.items() if k not in SHAPE} | mixing,
        ranges={k: v for k, v in single.ranges.items() if k not in SHAPE} | _MIXING,
        score=Score(reference_params=0.0),
    )


MULTIVIT_T3 = _multipath(VIT4_T3, "multivit-ti3")
MULTIVIT_B = _multipath(VIT4_B, "multivit-b")
MULTIVIT_L = _multipath(VIT4_L, "multivit-l")
DEMO_MULTIVIT = _multipath(DEMO_VIT, "demo-multivit")
CHARS5_MULTIVIT = replace(_multipath(CHARS5_VIT, "chars5-multivit"), method=MU4NET)

CLASSES: Mapping[str, AgentClass] = {
    c.name: c
    for c in (
        AgentClass(VIT_T0, "VitT0"),
        AgentClass(VIT_T3, "VitT3"),
        AgentClass(VIT_B, "VitB"),
        AgentClass(VIT_L, "Vit"),
        AgentClass(VIT4_T3, "VitT3"),
        AgentClass(VIT4_B, "VitB"),
        AgentClass(VIT4_L, "Vit"),
        AgentClass(MULTIVIT_T3, "MultiVitT3", MultipathPaths, VIT4_T3),
        AgentClass(MULTIVIT_B, "MultiVitB", MultipathPaths, VIT4_B),
        AgentClass(MULTIVIT_L, "MultiVit", MultipathPaths, VIT4_L),
        AgentClass(DEMO_VIT),
        AgentClass(DEMO_MULTIVIT, children=MultipathPaths, single=DEMO_VIT),
        AgentClass(CHARS5_VIT),
        AgentClass(CHARS5_MULTIVIT, children=MultipathPaths, single=CHARS5_VIT),
    )
}


def class_of(agent: str) -> AgentClass:
    """The class of an agent's id, CLASS/TASK. Raises ValueError."""
    name, _, task = agent.partition("/")
    if name not in CLASSES or not task:
        raise ValueError(
            f"agent {agent!r}: expected CLASS/TASK with CLASS one of {', '.join(CLASSES)}"
        )
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
