"""The loop over task iterations, generations and children; saves, resumes, publishes.

Rules: spec/munet.md §3-§4, spec/mu2net.md §3-§4. All randomness of a generation is derived from the
seed and its place in the run: a run that was stopped and resumed makes the same decisions as one
that never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from evolution import mutation, state
from evolution.experiments import RESUMABLE, Experiment, with_settings
from evolution.outcome import ChildTrained, Event, Outcome, TaskFailed, TaskPublished
from evolution.population import ROOT, Path, Population
from evolution.publication import task_path
from evolution.state import Progress, StateError
from evolution.tasks import Task
from evolution.trainer import Batches, Trainer
from evolution.training import TrainState, forward_flops
from model_store import ModelStore, Published
from vit import Architecture
from vit.components import Tree

# What an experiment reads its data with: a task list's entry -> the task.
Source = Callable[[Experiment], Callable[[str], Task]]
Root = tuple[Architecture, dict[str, Tree]]  # components in forward order


class Search:
    """One run of an experiment: its state, and the steps that change it."""

    def __init__(
        self,
        experiment: Experiment,
        store: ModelStore,
        progress: Progress,
        population: Population,
        source: Source,
        name: str,
    ) -> None:
        """Use `start`, `extend` or `resume`."""
        self.name = name  # of the run, in the store
        self.experiment = experiment
        self._store = store
        self._source = source(experiment)
        self.progress = progress
        self.population = population
        self.stopping = False  # set from outside: stop after the generation under way

    @classmethod
    def start(
        cls,
        experiment: Experiment,
        root: Root,
        store: ModelStore,
        seed: int,
        source: Source,
        name: str | None = None,
    ) -> Search:
        """A new run from a root, called as its experiment unless it has a name.

        Raises StateError if the store holds a run of this name.
        """
        name = name or experiment.name
        _require_new(name, store)
        arch, params = root
        progress = _progress(experiment, seed, arch)
        population = population_of_root(experiment, params)
        return cls(experiment, store, progress, population, source, name)

    @classmethod
    def extend(
        cls,
        experiment: Experiment,
        store: ModelStore,
        seed: int,
        source: Source,
        system: tuple[ModelStore, str],
        name: str | None = None,
    ) -> Search:
        """A new run that continues the system of another run, (its store, its name).

        All its retained paths can be parents, and are published in this store too. Raises
        StateError.
        """
        name = name or experiment.name
        _require_new(name, store)
        former, population = state.load(*system)
        population.score = experiment.scorer
        population.newest_wins = experiment.method.newest_wins
        for path in population:
            if path.task != ROOT:  # an import may lack it, or have counted otherwise
                path.metrics["flops"] = forward_flops(_architecture(former.architecture, path))
        for task in [task for task in population.paths if task != ROOT]:
            population.finish(task)  # the other run may have been stopped in the middle of it
        if system[0].url != store.url:
            _copy_system(population, system[0], store)
        progress = _progress(experiment, seed, former.architecture)
        progress.history = former.history
        state.archive_history(store, progress)
        return cls(experiment, store, progress, population, source, name)

    @classmethod
    def resume(
        cls,
        store: ModelStore,
        run: str,
        source: Source,
        further_tasks: tuple[str, ...] = (),
        settings: Sequence[str] = (),
    ) -> Search:
        """Continues a saved run, with further task iterations at its end; raises StateError.

        `settings` (those of RESUMABLE) replace what the run was started with.

        A further task that is waiting already, because this call was made before and then cut
        short, is not added again.
        """
        progress, population = state.load(store, run)
        if not progress.settings:
            raise StateError(
                f"run {run!r} was imported and has no experiment of its own: start one with "
                f"`python -m evolution run EXPERIMENT --continue-from {store.url}#{run}`"
            )
        waiting = progress.schedule[progress.iteration :]
        progress.schedule += [task for task in further_tasks if task not in waiting]
        try:
            experiment = Experiment.from_json(progress.settings)
            experiment = with_settings(experiment, settings, RESUMABLE)
        except ValueError as error:
            raise StateError(f"resuming {run!r}: {error}") from None
        progress.settings = experiment.to_json()
        return cls(experiment, store, progress, population, source, run)

    def run(self) -> Iterator[Event]:
        """Runs to the end of the schedule, or until `stopping`, saving after each generation."""
        for entry in dict.fromkeys(self.progress.schedule[self.progress.iteration :]):
            self._source(entry)  # errors of the data come before anything is saved or trained
        self._save()
        while self.progress.iteration < len(self.progress.schedule) and not self.stopping:
            yield from self._task_iteration(self.progress.schedule[self.progress.iteration])

    def _task_iteration(self, entry: str) -> Iterator[Event]:
        task, progress = self._source(entry), self.progress
        if progress.generation == 0:
            self._begin(task)
        trainer = Trainer(self.experiment, task)
        per_generation = self.experiment.children_per_generation
        while progress.generation * per_generation < self.experiment.samples_per_task:
            if self.stopping:
                return
            events = self._generation(task, trainer)
            progress.generation += 1
            self._save()
            yield from events
        yield self._finish(task, trainer)

    def _begin(self, task: Task) -> None:
        self.population.start(task.name)
        seeds = [path.id for path in self.population.seeds(task.name)]
        if self.experiment.method.sweeps_seeds:
            self.progress.seeds = seeds[::-1]  # the newest first
        else:
            self.progress.seeds = [int(i) for i in self._rng("seeds").permutation(seeds)]

    def _rng(self, purpose: str) -> np.random.Generator:
        key = self._stream(purpose)
        return np.random.default_rng(np.random.SeedSequence(self.progress.seed, spawn_key=key))

    def _stream(self, purpose: str) -> tuple[int, ...]:
        """The key of a stream of its own for each purpose in each generation."""
        number = ("seeds", "decisions", "batches").index(purpose)
        return self.progress.iteration, self.progress.generation, number

    def _save(self) -> None:
        state.save(self._store, self.name, self.progress, self.population)

    # ---- one generation

    def _generation(self, task: Task, trainer: Trainer) -> list[ChildTrained]:
        """Samples all children, then trains each on the same batches, then takes in the better."""
        rng, experiment, population = self._rng("decisions"), self.experiment, self.population
        first = self.progress.generation * experiment.children_per_generation
        last = min(first + experiment.children_per_generation, experiment.samples_per_task)
        best, method = population.best(task.name), experiment.method
        mutate = not self._sweeps(first) and (best is not None or not method.data_follows_best)
        data_hp = mutation.shared_data_hyperparameters(experiment, best, mutate, rng)
        pairs = [self._child(task, i, data_hp, rng) for i in range(first, last)]
        batches = trainer.batches(self.progress.seed, self._stream("batches"))
        outcomes = [self._train(*pair, trainer, batches) for pair in pairs]
        for outcome in outcomes:
            if outcome.improved:
                population.paths.setdefault(task.name, []).append(outcome.child)
        if experiment.max_population is not None and task.name in population.paths:
            population.prune(task.name, experiment.max_population)
        newest = population.best(task.name)
        iteration, generation = self.progress.iteration, self.progress.generation
        self.progress.history += [
            outcome.history_row(iteration, generation, population.score, outcome.child is newest)
            for outcome in outcomes
        ]
        children, quality = experiment.samples_per_task, (newest.quality if newest else None) or 0.0
        return [
            ChildTrained(outcome, iteration, number, children, quality)
            for number, outcome in enumerate(outcomes, first)
        ]

    def _sweeps(self, child: int) -> bool:
        """Whether that child of the task iteration only tries a seed as it is."""
        return self.experiment.method.sweeps_seeds and child < len(self.progress.seeds)

    def _child(
        self, task: Task, number: int, data_hp: dict[str, Any], rng: np.random.Generator
    ) -> tuple[Path, Path]:
        """A new child and its parent."""
        experiment, population = self.experiment, self.population
        parent, mutate = self._parent(task, number, rng), not self._sweeps(number)
        hp = {**experiment.defaults, **parent.hyperparameters, **data_hp}
        if mutate:
            hp = mutation.mutate_hyperparameters(hp, experiment, rng)
        arch = mutation.architecture_of(self.progress.architecture, hp, task.num_classes)
        child = mutation.make_child(
            population, parent, task.name, arch, hp, experiment, mutate, rng
        )
        child.private = task.private or population.is_private(task.name)
        child.metrics["flops"] = forward_flops(arch)
        parent.children_per_task[task.name] = parent.children_per_task.get(task.name, 0) + 1
        return child, parent

    def _parent(self, task: Task, number: int, rng: np.random.Generator) -> Path:
        if self.experiment.method.from_root_only:
            return self.population.paths[ROOT][0]
        paths = {path.id: path for path in self.population}
        seeds = [paths[i] for i in self.progress.seeds]
        if self._sweeps(number):
            return seeds[number]
        method = self.experiment.method
        parent = mutation.sample_parent(self.population, task.name, seeds, method, rng)
        self.progress.seeds = [path.id for path in seeds]
        return parent

    def _train(self, child: Path, parent: Path, trainer: Trainer, batches: Batches) -> Outcome:
        """Trains a child and gives it its best round, if one was good enough."""
        started = time.monotonic()
        trained = tuple(c.name for c in child.components if c.trainable)
        same_task = parent.task == child.task
        threshold = self.population.score(parent) if same_task else -np.inf
        snapshot: TrainState | None = None
        qualities: list[float] = []
        device_s = 0.0
        for reached in trainer.train(
            child, _architecture(self.progress.architecture, child), batches
        ):
            device_s += reached.device_s
            if not reached.finite:
                break
            qualities.append(reached.quality)
            child.quality = reached.quality
            score = self.population.score(child)
            newest_wins = self.experiment.method.newest_wins
            if score > threshold or (newest_wins and score == threshold):
                threshold, snapshot = score, reached.state
        child.quality = max(qualities, default=0.0)
        child.metrics["evaluations"] = qualities
        if snapshot is not None:
            _keep_snapshot(child, snapshot)
        return Outcome(
            child, parent, trained, snapshot is not None,
            diverged=len(qualities) < self.experiment.rounds_per_child,
            seconds=time.monotonic() - started,
            device_s=device_s,
        )  # fmt: skip

    # ---- the end of a task iteration

    def _finish(self, task: Task, trainer: Trainer) -> TaskPublished | TaskFailed:
        best = self.population.finish(task.name)
        outcome = self._publish(best, task, trainer) if best else TaskFailed(task.name)
        self.progress.iteration += 1
        self.progress.generation = 0
        state.archive_history(self._store, self.progress)
        self._save()
        return outcome

    def _publish(self, best: Path, task: Task, trainer: Trainer) -> TaskPublished:
        arch = _architecture(self.progress.architecture, best)
        if "test_accuracy" not in best.metrics:
            best.metrics["test_accuracy"] = trainer.test_accuracy(best, arch)
        self._save()  # gives every component its digest
        published = self._version(best)
        added = published is None
        if published is None:
            spec = task_path(
                best, task, arch, self.population, self.progress, self.name,
                self.experiment.method.name, trainer.validation_count,
            )  # fmt: skip
            published = self._store.publish(spec, live=self._may_go_live(best))
            best.published = published.digest
        return TaskPublished(
            task=task.name,
            version=published.version,
            added=added,
            live=self._store.live().get(task.name, (0,))[0] == published.version,
            validation_accuracy=best.quality or 0.0,
            test_accuracy=best.metrics["test_accuracy"],
            total_params=best.num_params,
            new_params=sum(c.num_params for c in best.components if c.locks == {task.name}),
        )

    def _version(self, path: Path) -> Published | None:
        """The version that this very path was published as, if it was."""
        if path.published is None:
            return None
        versions = self._store.history(path.task) if path.task in self._store.tasks() else []
        return next((v for v in versions if v.digest == path.published), None)

    def _may_go_live(self, path: Path) -> bool:
        """Whether no other run's version that is live is better by validation."""
        if path.task not in self._store.tasks():
            return True
        live = self._store.resolve(path.task).path
        accuracy = live.metrics.get("validation", {}).get("accuracy")
        return live.lineage.get("agent") == self.name or (accuracy or 0) <= (path.quality or 0)


def _architecture(base: Architecture, path: Path) -> Architecture:
    head = path.named("head")
    assert head is not None
    return mutation.architecture_of(base, path.hyperparameters, head.params["bias"].shape[0])


def population_of_root(experiment: Experiment, params: dict[str, Tree]) -> Population:
    """The population of a new run: the root alone, its components in forward order, locked."""
    population = Population(experiment.scorer, experiment.method.newest_wins)
    components = tuple(mutation.new_component(population, *item) for item in params.items())
    hp = dict(experiment.defaults)
    root = Path(population.path_id(), ROOT, None, components, hp, generation=0)
    population.paths[ROOT] = [root]
    population.lock(root)
    return population


def _require_new(name: str, store: ModelStore) -> None:
    if name in store.agents():
        raise StateError(
            f"store already holds a run {name!r}: continue it with "
            f"`python -m evolution resume {name}`, or give this one another --name"
        )


def _progress(experiment: Experiment, seed: int, arch: Architecture) -> Progress:
    schedule = list(experiment.tasks) * experiment.passes
    return Progress(experiment.name, seed, schedule, arch, experiment.to_json())


def _copy_system(population: Population, source: ModelStore, store: ModelStore) -> None:
    """Puts all components into another store and publishes the retained paths there."""
    for component in population.components():
        store.put(component.params)
        if component.momentum is not None:
            store.put(component.momentum)
    for path in population:
        if path.published is not None:
            versions = source.history(path.task)
            original = next((v for v in versions if v.digest == path.published), None)
            if original is None:
                raise StateError(
                    f"task {path.task}: its version {path.published} is no longer in "
                    f"{source.url}; continue in that store instead, or import it anew"
                )
            live = source.live().get(path.task)
            store.publish(
                original.path,
                live=path.task not in store.tasks() or live == (original.version, original.digest),
            )


def _keep_snapshot(child: Path, snapshot: TrainState) -> None:
    for component in child.components:
        if component.trainable:
            component.source = jax.tree.map(np.asarray, snapshot.params[component.name])
            component.trace = jax.tree.map(np.asarray, snapshot.momentum[component.name])
