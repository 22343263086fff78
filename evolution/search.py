"""The loop over task iterations and children (spec/mu2net.md §3-§4); saves, resumes, publishes.

One device trains one child at a time, so a generation is one child. All randomness of a generation
is derived from the seed and its place in the run: a run that was stopped and resumed makes the same
decisions as one that never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from evolution import mutation, state
from evolution.augment import DRAWS
from evolution.experiments import Experiment
from evolution.population import ROOT, Path, Population, accounted_params
from evolution.state import Progress, StateError
from evolution.tasks import Task
from evolution.training import (
    Hyperparameters,
    TrainingSet,
    TrainState,
    accuracy,
    epochs,
    evaluation_data,
    train,
    training_data,
)
from model_store import ModelStore, TaskPath
from vit import Architecture
from vit.preprocess import CONTRACT


@dataclass(frozen=True, slots=True)
class ChildTrained:
    """A child has been trained and kept or discarded."""

    task: str
    iteration: int  # counted from 0
    generation: int  # counted from 0
    generations: int
    parent_task: str
    mutations: dict[str, tuple[Any, Any]]  # hyperparameter -> (parent's value, child's value)
    trained: tuple[str, ...]  # components that were trained
    quality: float
    improved: bool
    best_quality: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TaskPublished:
    """A task iteration is over and its best path stands in the store."""

    task: str
    version: int
    validation_accuracy: float
    test_accuracy: float
    total_params: int
    new_params: int  # of components that no other path of the system uses


Event = ChildTrained | TaskPublished


class Search:
    """One run of an experiment: its state, and the steps that change it."""

    def __init__(
        self,
        experiment: Experiment,
        store: ModelStore,
        progress: Progress,
        population: Population,
        source: Callable[[str], Task],
    ) -> None:
        """Use `start` or `resume`."""
        self.experiment = experiment
        self._store = store
        self._source = source
        self.progress = progress
        self.population = population
        self._base, _ = experiment.root()

    @classmethod
    def start(
        cls, experiment: Experiment, store: ModelStore, seed: int, source: Callable[[str], Task]
    ) -> Search:
        """A new run; raises StateError if the store already holds one of this name."""
        name = experiment.name
        if store.load_agent(name) is not None:
            raise StateError(
                f"store already holds a run {name!r}: continue it with "
                f"`python -m evolution resume {name}`, or give another store"
            )
        progress = Progress(name, seed, list(experiment.tasks) * experiment.passes)
        return cls(experiment, store, progress, population_of_root(experiment), source)

    @classmethod
    def resume(
        cls,
        experiment: Experiment,
        store: ModelStore,
        source: Callable[[str], Task],
        further_tasks: tuple[str, ...] = (),
    ) -> Search:
        """Continues a saved run, with further task iterations at its end; raises StateError.

        A further task that is waiting already, because this call was made before and then cut
        short, is not added again.
        """
        progress, population = state.load(store, experiment.name, experiment.score)
        waiting = progress.schedule[progress.iteration :]
        progress.schedule += [task for task in further_tasks if task not in waiting]
        return cls(experiment, store, progress, population, source)

    def run(self) -> Iterator[Event]:
        """Runs to the end of the schedule, saving after each generation."""
        for entry in self.progress.schedule[self.progress.iteration :]:
            self._source(entry)  # errors of the data come before anything is saved or trained
        self._save()
        while self.progress.iteration < len(self.progress.schedule):
            yield from self._task_iteration(self.progress.schedule[self.progress.iteration])

    def _task_iteration(self, entry: str) -> Iterator[Event]:
        task, progress = self._source(entry), self.progress
        if progress.generation == 0:
            self._begin(task)
        validation_count = self.experiment.validation_count(len(task.validation.labels))
        trainer = _Trainer(self.experiment, task, validation_count)
        while progress.generation < self.experiment.samples_per_task:
            event = self._generation(task, trainer)
            progress.generation += 1
            self._save()
            yield event
        yield self._finish(task)

    def _begin(self, task: Task) -> None:
        rng = self._rng()
        self.population.start(task.name)
        seeds = [path.id for path in self.population.seeds(task.name)]
        self.progress.seeds = [int(i) for i in rng.permutation(seeds)]

    def _rng(self) -> np.random.Generator:
        p = self.progress
        return np.random.default_rng([p.seed, p.iteration, p.generation])

    def _save(self) -> None:
        state.save(self._store, self.experiment.name, self.progress, self.population)

    # ---- one child

    def _generation(self, task: Task, trainer: _Trainer) -> ChildTrained:
        started = time.monotonic()
        rng, experiment, population = self._rng(), self.experiment, self.population
        data_hp = mutation.shared_data_hyperparameters(
            experiment.defaults, experiment.ranges, population.best(task.name), rng
        )
        parent = self._sample_parent(task, rng)
        hp = mutation.mutate_hyperparameters(
            {**parent.hyperparameters, **data_hp}, experiment.ranges, rng
        )
        if experiment.mutate_adapters:
            hp["adapters"] = mutation.mutate_adapters(hp, rng)
        arch = mutation.architecture_of(self._base, hp, task.num_classes)
        child = mutation.make_child(population, parent, task.name, arch, hp, experiment.method, rng)
        # Once private, a task stays private, whatever later task lists say (mu2net.md §2).
        kept = population.paths.get(task.name, ())
        child.private = task.private or any(path.private for path in kept)
        trained = tuple(c.name for c in child.components if c.trainable)
        improved = self._train(child, parent, arch, trainer, rng)
        parent.children_per_task[task.name] = parent.children_per_task.get(task.name, 0) + 1
        if improved:
            population.paths.setdefault(task.name, []).append(child)
        best, quality = population.best(task.name), child.quality or 0.0
        mutations = {k: (v, hp[k]) for k, v in parent.hyperparameters.items() if hp[k] != v}
        self.progress.history.append(
            {
                "task": task.name, "path": child.id, "parent": parent.id,
                "iteration": self.progress.iteration, "generation": self.progress.generation,
                "mutations": {k: list(v) for k, v in mutations.items()}, "trained": list(trained),
                "quality": quality, "improved": improved,
            }
        )  # fmt: skip
        return ChildTrained(
            task=task.name,
            iteration=self.progress.iteration,
            generation=self.progress.generation,
            generations=experiment.samples_per_task,
            parent_task=parent.task,
            mutations=mutations,
            trained=trained,
            quality=quality,
            improved=improved,
            best_quality=(best.quality if best else None) or 0.0,
            seconds=time.monotonic() - started,
        )

    def _sample_parent(self, task: Task, rng: np.random.Generator) -> Path:
        paths = {path.id: path for path in self.population}
        seeds = [paths[i] for i in self.progress.seeds]
        parent = mutation.sample_parent(
            self.population, task.name, seeds, self.experiment.method, rng
        )
        self.progress.seeds = [path.id for path in seeds]
        return parent

    def _train(
        self,
        child: Path,
        parent: Path,
        arch: Architecture,
        trainer: _Trainer,
        rng: np.random.Generator,
    ) -> bool:
        """Trains the child and gives it its best round; False if no round was good enough."""
        score, method = self.experiment.score, self.experiment.method
        threshold = score(parent) if parent.task == child.task else -np.inf
        snapshot: TrainState | None = None
        qualities: list[float] = []
        for quality, trained in trainer.rounds(child, arch, rng):
            qualities.append(quality)
            child.quality = quality
            reached = score(child)
            better = reached > threshold or (method.ties_improve and reached == threshold)
            if better and _is_finite(trained):
                threshold, snapshot = reached, trained
        child.quality = max(qualities)
        child.metrics = {"evaluations": qualities}
        if snapshot is not None:
            _keep_snapshot(child, snapshot)
        return snapshot is not None

    # ---- the end of a task iteration

    def _finish(self, task: Task) -> TaskPublished:
        best = self.population.finish(task.name)
        if best is None or best.quality is None:
            raise StateError(
                f"no child of task {task.name} could be kept: the training of each diverged; "
                "lower opt_lr or give the experiment more children a task"
            )
        if "test_accuracy" not in best.metrics:
            arch = self._architecture(best)
            data = evaluation_data(task.test.images, task.test.labels, arch.image_size)
            best.metrics["test_accuracy"] = accuracy(arch, _params(best), data)
        self._save()  # gives every component its digest
        published = self._store.publish(self._task_path(best, task))
        best.published = published.digest
        self.progress.iteration += 1
        self.progress.generation = 0
        self._save()
        return TaskPublished(
            task=task.name,
            version=published.version,
            validation_accuracy=best.quality,
            test_accuracy=best.metrics["test_accuracy"],
            total_params=best.num_params,
            new_params=sum(c.num_params for c in best.components if c.locks == {task.name}),
        )

    def _architecture(self, path: Path) -> Architecture:
        head = path.named("head")
        assert head is not None
        classes = head.params["bias"].shape[0]
        return mutation.architecture_of(self._base, path.hyperparameters, classes)

    def _task_path(self, path: Path, task: Task) -> TaskPath:
        arch, parent = self._architecture(path), path.parent
        components = {component.name: component.digest for component in path.components}
        assert None not in components.values(), "the state is saved before a path is published"
        return TaskPath(
            task=task.name,
            labels=task.labels,
            architecture=arch.to_json(),
            components={name: digest for name, digest in components.items() if digest},
            input={"size": arch.image_size, **CONTRACT},
            hyperparameters=dict(path.hyperparameters),
            metrics={
                "validation": {
                    "accuracy": path.quality,
                    "split": task.validation.name,
                    "examples": self.experiment.validation_count(len(task.validation.labels)),
                },
                "test": {
                    "accuracy": path.metrics["test_accuracy"],
                    "split": task.test.name,
                    "examples": len(task.test.labels),
                },
            },
            parameters={"total": path.num_params, "accounted": accounted_params(path)},
            lineage={
                # The nearest ancestor that is still alive; the root is in no manifest.
                "parent": parent.published if parent else None,
                "parent_task": parent.task if parent and parent.task != ROOT else None,
                "method": self.experiment.method.name,
                "experiment": self.experiment.name,
                "agent": self.experiment.name,
                "generation": path.generation,
                "seed": self.progress.seed,
            },
            private=path.private,
        )


class _Trainer:
    """A task's data on the device, and the training of one child on it."""

    def __init__(self, experiment: Experiment, task: Task, validation_count: int) -> None:
        self._experiment = experiment
        self._train = training_data(task.train.images, task.train.labels)
        self._validation_images = task.validation.images[:validation_count]
        self._validation_labels = task.validation.labels[:validation_count]
        self._validation = {}  # by image size

    def rounds(
        self, child: Path, arch: Architecture, rng: np.random.Generator
    ) -> Iterator[tuple[float, TrainState]]:
        """Validation accuracy and state after each round of the child's training."""
        size = arch.image_size
        if size not in self._validation:
            self._validation[size] = evaluation_data(
                self._validation_images, self._validation_labels, size
            )
        per_round = self._experiment.steps_per_round(self._train.count)
        rounds = self._experiment.rounds_per_child
        steps = per_round * rounds
        order = epochs(rng, self._train.count, self._experiment.batch_size, steps)
        data = TrainingSet(
            train=self._train,
            validation=self._validation[size],
            order=order,
            steps_per_round=per_round,
            draws=rng.random((*order.shape, DRAWS), np.float32),
        )
        trainable = frozenset(c.name for c in child.components if c.trainable)
        momentum = {c.name: c.momentum for c in child.components}
        if not self._experiment.method.inherits_momentum:
            momentum = {}
        hp = Hyperparameters.of(child.hyperparameters, steps, rounds)
        return train(arch, _params(child), momentum, trainable, hp, data)


def population_of_root(experiment: Experiment) -> Population:
    """The population of a new run: the root alone, locked."""
    arch, params = experiment.root()
    population = Population(experiment.score)
    components = tuple(
        mutation.new_component(population, name, params[name]) for name in arch.component_names
    )
    hp = {**experiment.defaults, "num_layers": arch.num_layers}
    root = Path(population.path_id(), ROOT, None, components, hp, generation=0)
    population.paths[ROOT] = [root]
    population.lock(root)
    return population


def _params(path: Path) -> dict[str, Any]:
    return {component.name: component.params for component in path.components}


def _is_finite(trained: TrainState) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(trained.params))


def _keep_snapshot(child: Path, snapshot: TrainState) -> None:
    for component in child.components:
        if component.trainable:
            component.params = jax.tree.map(np.asarray, snapshot.params[component.name])
            component.momentum = jax.tree.map(np.asarray, snapshot.momentum[component.name])
