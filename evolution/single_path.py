"""Single paths as children: sampled by the rules of the method, trained, published."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

import numpy as np

from evolution import mutation
from evolution.data.tasks import Task
from evolution.experiments.experiment import Experiment
from evolution.population import ROOT, Component, Path, Population
from evolution.publication import task_path
from evolution.state import Progress
from evolution.training.programs import forward_flops
from evolution.training.trainer import Batches, Round, Trainer, Watch
from evolution.training.validation import compared, measure_again, measured_on, validation_count
from model_store import TaskPath
from vit import Architecture, kind_of

# Where heads are fitted, the second child of a task trains adapters and these, the third all.
WITH_ADAPTERS, EVERYTHING = 1, 2
ADAPTED = ("residual_adapter", "encoder_norm")  # kinds of components
# Adapters start as zeros and need larger steps. Twice the learning rate of other components gave
# .646 on drawn shapes, four times .672; on characters both were equal.
ADAPTER_RATE = 4.0

MOST_BODIES = 15  # of others' paths that a task's first child is chosen from, besides the root


class SinglePaths:
    """Children of an owner that are single paths of a task (evolution.children.Children)."""

    def __init__(
        self,
        experiment: Experiment,
        task: Task,
        population: Population,
        progress: Progress,
        owner: str,
        watch: Watch | None = None,
    ) -> None:
        """Reads the task's images. Raises TaskError.

        Paths that children are compared with are measured again if they were on other examples.
        """
        self._experiment = experiment
        self.task = task = task.under(progress.contract)
        self._population = population
        self._progress = progress
        self._owner = owner
        own_only = experiment.method.beats_own_only
        others = compared(population, owner, task.name, own_only)
        count = validation_count(experiment, task, others)
        self.measured = measured_on(task.name, task.validation, count)
        self._trainer = Trainer(experiment, task, count, watch)
        measure_again(others, self.measured, self._quality)
        self.batches = self._trainer.batches

    def child(
        self, number: int, data_hp: dict[str, Any], rng: np.random.Generator
    ) -> tuple[Path, Path]:
        """A new child and its parent, which counts it."""
        method, best = self._experiment.method, self._population.best(self._owner)
        if method.fits_heads and number == 0 and best is None:
            return self._on_the_best_body(data_hp, rng)
        grows = method.fits_heads and number in (WITH_ADAPTERS, EVERYTHING)
        if grows and best is not None and _frozen(best):
            mutation.count_child(best, self._owner)
            return self._grown(number, best, rng), best
        if method.draws_ranges:
            data_hp = data_hp | mutation.drawn_hyperparameters(number, self._experiment, rng)
        sweeps = method.sweeps_seeds and number < len(self._progress.seeds)
        parent = self._parent(number, sweeps, rng)
        return self._made(parent, data_hp, not sweeps, rng), parent

    def _made(
        self,
        parent: Path,
        data_hp: dict[str, Any],
        mutate: bool,
        rng: np.random.Generator,
        copied: Container[str] = (),
    ) -> Path:
        experiment, population = self._experiment, self._population
        hp = {**experiment.defaults, **parent.hyperparameters, **data_hp}
        if mutate:
            hp = mutation.mutate_hyperparameters(hp, experiment, rng) | data_hp
        arch = mutation.architecture_of(self._progress.architecture, hp, self.task.num_classes)
        child = mutation.make_child(
            population, parent, self.task.name, arch, hp, experiment, mutate, rng, copied
        )
        child.owner = self._owner
        child.private = self.task.private or population.is_private(self._owner)
        child.metrics["flops"] = forward_flops(arch)
        return child

    def _grown(self, number: int, best: Path, rng: np.random.Generator) -> Path:
        """A child with more to train than its parent, and the default settings of the optimiser."""
        defaults, hp = self._experiment.defaults, dict(best.hyperparameters)
        hp |= {key: value for key, value in defaults.items() if key.startswith("opt_")}
        if number == WITH_ADAPTERS:
            rate = ADAPTER_RATE * hp["opt_lr"]
            choices = self._experiment.ranges.get("opt_lr", (rate,))
            hp["opt_lr"] = min(choices, key=lambda choice: abs(choice - rate))
            hp["adapters"] = [*range(hp["num_layers"])]
        names = mutation.architecture_of(self._progress.architecture, hp, 1).component_names
        copied = [name for name in names if number == EVERYTHING or kind_of(name) in ADAPTED]
        return self._made(best, hp, False, rng, copied)

    def _on_the_best_body(
        self, data_hp: dict[str, Any], rng: np.random.Generator
    ) -> tuple[Path, Path]:
        """The child of the root or of another path on whose body a fitted head has least loss."""
        bodies: dict[tuple[Component | None, ...], Path] = {}
        seeds = self._population.seeds(self._owner)
        for path in seeds[:1] if self._experiment.method.from_root_only else seeds:
            arch = mutation.architecture_of(self._progress.architecture, path.hyperparameters, 1)
            body = arch.component_names[:-1]  # the root has components besides
            bodies.setdefault(tuple(path.named(name) for name in body), path)
        parents = list(bodies.values())
        parents = parents[:1] + parents[1:][-MOST_BODIES:]  # the root, and the newest
        pairs = [(self._made(parent, data_hp, False, rng), parent) for parent in parents]
        best = min(pairs, key=lambda pair: self._trainer.fitted_loss(pair[0], self._arch(pair[0])))
        mutation.count_child(best[1], self._owner)
        return best

    def _arch(self, path: Path) -> Architecture:
        return architecture(self._progress.architecture, path)

    def _parent(self, number: int, sweeps: bool, rng: np.random.Generator) -> Path:
        root = self._population.paths[ROOT][0]
        if self._experiment.method.from_root_only:
            return root
        paths = {path.id: path for path in self._population}
        seeds = [paths[i] for i in self._progress.seeds]
        if sweeps:
            mutation.count_child(seeds[number], self._owner)
            return seeds[number]
        method = self._experiment.method
        parent = mutation.sample_parent(self._population, self._owner, seeds, method, rng)
        self._progress.seeds = [path.id for path in seeds]
        return parent

    def train(self, child: Path, batches: Batches) -> Iterator[Round]:
        """Trains a child, round by round. Does not change its components."""
        best = self._population.best(self._owner) if self._experiment.method.margin else None
        against = None if best is None else self._trainer.losses(best, self._arch(best))
        return self._trainer.train(child, self._arch(child), batches, against)

    def _quality(self, path: Path) -> float:
        return self._trainer.validation_quality(path, self._arch(path))

    def tested(self, path: Path) -> dict[str, Any]:
        """What is measured of a path when its search is over (evolution.children.Children)."""
        return self._trainer.tested(path, architecture(self._progress.architecture, path))

    def spec(self, path: Path, run: str) -> TaskPath:
        """The path spec of a retained path whose components are stored."""
        return task_path(
            path, self.task, architecture(self._progress.architecture, path), self._population,
            self._progress, run, self._experiment.method.name,
        )  # fmt: skip


def _frozen(path: Path) -> bool:
    """Whether the path shares its body, but for adapters and the norm after the last block."""
    return all(kind_of(c.name) in (*ADAPTED, "head") for c in path.trainable)


def architecture(base: Architecture, path: Path) -> Architecture:
    """The architecture of a single path; width and patch size are the root's, `base`."""
    head = path.named("head")
    assert head is not None
    return mutation.architecture_of(base, path.hyperparameters, head.params["bias"].shape[0])
