"""One search for a better path of a task: a run's task iteration or an agent's cycle.

Rules: SYSTEMS.md, Search. All randomness of a generation is derived from the seed and its place in
the search: a search that was stopped and resumed makes the same decisions as one that never
stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import numpy as np

from evolution import mutation
from evolution.comparison import MEASURED, Measured
from evolution.data.tasks import Task
from evolution.events import ChildTrained, Outcome
from evolution.experiments.experiment import Experiment
from evolution.population import Path, Population
from evolution.state import Progress
from evolution.training.curves import Curve
from evolution.training.programs import TrainState
from evolution.training.trainer import Batches, Round
from model_store import TaskPath


class Kind(Protocol):
    """How the children of a search are made, trained and published."""

    task: Task
    measured: Measured  # the examples that a child is validated with

    def batches(self, seed: int, key: tuple[int, ...]) -> Batches:
        """Batches for the children of one generation."""
        ...

    def child(
        self, number: int, data_hp: dict[str, Any], rng: np.random.Generator
    ) -> tuple[Path, Path]:
        """Child `number` of this search, and its parent, which counts it."""
        ...

    def train(self, child: Path, batches: Batches) -> Iterator[Round]:
        """Trains a child, round by round. Does not change its components."""
        ...

    def test_quality(self, path: Path) -> float:
        """The quality of a path's answers to the whole test split."""
        ...

    def spec(self, path: Path, run: str) -> TaskPath:
        """The path spec that a run or agent publishes; the path's components must be stored."""
        ...


class Iteration:
    """The generations of one search, which add to the population and to the history."""

    def __init__(
        self,
        experiment: Experiment,
        population: Population,
        progress: Progress,
        owner: str,
        kind: Kind,
    ) -> None:
        """The children become paths of `owner`.

        The kind has measured the paths that children are compared with on its own examples.
        """
        self._experiment = experiment
        self._population = population
        self._progress = progress
        self._owner = owner
        self._kind = kind

    @property
    def complete(self) -> bool:
        """Whether all children have been trained."""
        done = self._progress.generation * self._experiment.children_per_generation
        return done >= self._experiment.samples_per_task

    def generation(self) -> list[ChildTrained]:
        """Samples all children, trains each on the same batches, and adds the better ones."""
        experiment, population, progress = self._experiment, self._population, self._progress
        rng = progress.rng("decisions")
        first = progress.generation * experiment.children_per_generation
        last = min(first + experiment.children_per_generation, experiment.samples_per_task)
        best, method = population.best(self._owner), experiment.method
        sweeps = method.sweeps_seeds and first < len(progress.seeds)
        mutate = not sweeps and (best is not None or not method.data_follows_best)
        data_hp = mutation.shared_data_hyperparameters(experiment, best, mutate, rng)
        pairs = [self._kind.child(i, data_hp, rng) for i in range(first, last)]
        batches = self._kind.batches(progress.entropy, progress.stream("batches"))
        outcomes = [self._train(*pair, batches) for pair in pairs]
        for outcome in outcomes:
            if outcome.improved:
                population.paths.setdefault(self._owner, []).append(outcome.child)
        if experiment.max_population is not None and self._owner in population.paths:
            population.prune(self._owner, experiment.max_population)
        newest = population.best(self._owner)
        progress.history += [
            outcome.history_row(
                progress.iteration, progress.generation, population.score, outcome.child is newest
            )
            for outcome in outcomes
        ]
        children, quality = experiment.samples_per_task, (newest.quality if newest else None) or 0.0
        events = [
            ChildTrained(
                outcome, progress.iteration, number, children, quality,
                at_most=experiment.budget_s is not None,
            )
            for number, outcome in enumerate(outcomes, first)
        ]  # fmt: skip
        progress.generation += 1
        return events

    def _train(self, child: Path, parent: Path, batches: Batches) -> Outcome:
        """Trains a child and gives it the parameters of its best round, if that was good enough.

        A child that diverged in any round is recorded with quality 0 and not kept.
        """
        started = time.monotonic()
        trained = tuple(c.name for c in child.components if c.trainable)
        threshold = self._bar(child, parent)
        snapshot: TrainState | None = None
        qualities: list[float] = []
        curves: list[Curve] = []
        device_s, diverged = 0.0, False
        for reached in self._kind.train(child, batches):
            device_s += reached.device_s
            curves.append(reached.curve)
            if not reached.finite:
                snapshot, diverged = None, True
                break
            qualities.append(reached.quality)
            child.quality = reached.quality
            score = self._population.score(child)
            newest_wins = self._experiment.method.newest_wins
            if score > threshold or (newest_wins and score == threshold):
                threshold, snapshot = score, reached.state
        child.quality = 0.0 if diverged else max(qualities, default=0.0)
        child.metrics["evaluations"] = qualities
        child.metrics[MEASURED] = self._kind.measured
        if snapshot is not None:
            _keep_snapshot(child, snapshot)
        return Outcome(
            child, parent, trained, snapshot is not None,
            diverged=diverged,
            training=Curve.joined(curves).record(),
            seconds=time.monotonic() - started,
            device_s=device_s,
        )  # fmt: skip

    def _bar(self, child: Path, parent: Path) -> float:
        """The score that a child must reach: its parent's if that solves the same task."""
        own_only = self._experiment.method.beats_own_only
        same = parent.owner == child.owner if own_only else parent.task == child.task
        # The quality of an import may be unknown.
        return self._population.score(parent) if same and parent.quality is not None else -np.inf


def _keep_snapshot(child: Path, snapshot: TrainState) -> None:
    for component in child.components:
        if component.trainable:
            component.source = jax.tree.map(np.asarray, snapshot.params[component.name])
            component.trace = jax.tree.map(np.asarray, snapshot.momentum[component.name])
