"""A population as a multipath agent finds it: a root and what single-path agents published."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from evolution.agents.small import DEMO_MULTIVIT
from evolution.experiments.experiment import Experiment
from evolution.methods import MU4NET
from evolution.multipath.children import MultipathPaths
from evolution.population import ROOT, Component, Path, Population, Stored
from evolution.state import Progress
from model_store import ModelStore
from tests.evolution.systems import ROOT as ARCHITECTURE
from tests.evolution.systems import TINY, toy_task
from vit import shapes
from vit.components import Tree

OWNER = "multi/toy/a:toy/a"
EXPERIMENT = replace(
    DEMO_MULTIVIT,
    name="multi",
    **{
        size: getattr(TINY, size)
        for size in (
            "samples_per_task", "batch_size", "train_examples_per_round", "rounds_per_child",
            "validation_examples",
        )
    },
)  # fmt: skip


@dataclass(slots=True)
class System:
    """A population whose components are stored."""

    store: ModelStore
    population: Population

    def publish(
        self, agent: str, task: str, seed: int, *, size: int = 8, private: bool = False,
        classes: int = 3, quality: float = 0.5,
    ) -> Path:  # fmt: skip
        """A random single path of an agent."""
        arch = replace(ARCHITECTURE, image_size=size, num_classes=classes)
        rng = np.random.default_rng(seed)

        def component(name: str) -> Component:
            params = jax.tree.map(
                lambda p: (0.3 * rng.standard_normal(p.shape)).astype(np.float32),
                shapes(arch, name),
            )
            return self.stored(name, params, {task})

        path = Path(
            id=self.population.path_id(),
            task=task,
            parent=None,
            components=tuple(component(name) for name in arch.component_names),
            hyperparameters=_sizes(size),
            generation=1,
            private=private,
            quality=quality,
            published=self.store.put({"manifest": np.float32(seed)}),  # stands for one
            owner=ROOT if task == ROOT else f"{agent}:{task}",
        )
        self.population.paths.setdefault(path.owner, []).append(path)
        return path

    def stored(self, name: str, params: Tree, locks: set[str]) -> Component:
        """A component that is in the store."""
        digest = self.store.put(params)
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        number = self.population.component_id()
        source = Stored(self.store, digest)
        return Component(number, name, source, count, locks=locks, digest=digest)


def _sizes(size: int) -> dict[str, Any]:
    return {"num_layers": 1, "adapters": [], "adapter_dim": 32, "ds_image_size": size}


def system(directory: Any) -> System:
    """A system of a root alone."""
    store = ModelStore(directory, create=True)
    found = System(store, Population(EXPERIMENT.scorer, MU4NET.newest_wins))
    root = found.publish("", ROOT, 0, classes=1)
    root.quality = root.published = None
    return found


def kind(found: System, experiment: Experiment = EXPERIMENT) -> MultipathPaths:
    """The children of the multipath agent of toy/a."""
    progress = Progress("multi", 0, ["toy/a"], ARCHITECTURE, agent="multi/toy/a")
    return MultipathPaths(experiment, toy_task("toy/a"), found.population, progress, OWNER)
