"""One cycle of one task: sample, train, keep, save, publish, promote; for runs and agents alike.

Rules: SYSTEMS.md, Search. All randomness of a generation is derived from the seed and its place in
the schedule: a cycle that was stopped and resumed makes the same decisions as one that never
stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from evolution import mutation, state
from evolution.children import Children
from evolution.events import ChildTrained, Ended, Outcome, TaskFailed
from evolution.experiments.experiment import Experiment
from evolution.population import Path, Population
from evolution.promotion import Promotion, qualities
from evolution.publication import publish_once, published_by, published_event
from evolution.state import Progress
from evolution.training.batches import Batches
from evolution.training.curves import Curve
from evolution.training.programs import TrainState
from evolution.training.validation import MEASURED, told_by
from model_store import ModelStore, Published, TaskPath


@dataclass(frozen=True, slots=True)
class Publisher:
    """The run or agent that a cycle belongs to."""

    store: ModelStore
    name: str  # in the store
    save: Callable[[], None]  # saves its state, which gives each component its digest
    promotion: Promotion
    publisher_of: Callable[[TaskPath], str | None] = published_by


class Cycle:
    """The generations of one cycle, which add to the population and to the history; its end."""

    def __init__(
        self,
        experiment: Experiment,
        population: Population,
        progress: Progress,
        owner: str,
        children: Children,
        publisher: Publisher,
    ) -> None:
        """The children become paths of `owner`.

        The paths that they are compared with have been measured on the children's own examples.
        """
        self._experiment = experiment
        self._population = population
        self._progress = progress
        self._owner = owner
        self._children = children
        self._publisher = publisher

    @property
    def complete(self) -> bool:
        """Whether all children have been trained."""
        done = self._progress.generation * self._experiment.children_per_generation
        return done >= self._experiment.samples_per_task

    def generation(self) -> list[ChildTrained]:
        """Samples all children, trains each on the same batches, keeps the better ones, saves."""
        experiment, population, progress = self._experiment, self._population, self._progress
        rng = progress.rng("decisions")
        first = progress.generation * experiment.children_per_generation
        last = min(first + experiment.children_per_generation, experiment.samples_per_task)
        best, method = population.best(self._owner), experiment.method
        sweeps = method.sweeps_seeds and first < len(progress.seeds)
        mutate = not sweeps and (best is not None or not method.data_follows_best)
        data_hp = mutation.shared_data_hyperparameters(experiment, best, mutate, rng)
        pairs = [self._children.child(i, data_hp, rng) for i in range(first, last)]
        batches = self._children.batches(progress.entropy, progress.stream("batches"))
        outcomes: list[Outcome] = []
        for pair in pairs:
            outcomes.append(outcome := self._train(*pair, batches))
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
        self._publisher.save()
        return events

    def publish_early(self) -> Ended | None:
        """Publishes a new best path before the end, if the method's first child is fit to serve."""
        best = self._population.best(self._owner)
        if not self._experiment.method.fits_heads or best is None or best.published is not None:
            return None
        event = self._publish(best)
        self._publisher.save()
        return event

    def finish(self) -> Ended:
        """Keeps the best path, publishes it if that is new, and ends the cycle."""
        best = self._population.finish(self._owner)
        ended = self._publish(best) if best else TaskFailed(self._children.task.name)
        self._progress.iteration += 1
        self._progress.generation, self._progress.seeds = 0, []
        state.archive_history(self._publisher.store, self._progress)
        self._publisher.save()
        return ended

    def _publish(self, best: Path) -> Ended:
        if "test_quality" not in best.metrics:
            best.metrics |= self._children.tested(best)
        self._publisher.save()
        store, name = self._publisher.store, self._publisher.name
        version = publish_once(
            store, best, name,
            spec=lambda: self._children.spec(best, name),
            may_replace=lambda live: self._may_replace(best, live),
        )  # fmt: skip
        rows, iteration = self._progress.history, self._progress.iteration
        added = any(row["id"] == best.id and row["iteration"] == iteration for row in rows)
        return published_event(store, best, version, added)

    def _may_replace(self, path: Path, live: Published | None) -> bool:
        if live is None:
            return True
        children, publisher = self._children, self._publisher
        return publisher.promotion.replaces(
            own=publisher.publisher_of(live.path) == publisher.name,
            same_examples=told_by(live.path) == children.measured,
            qualities=lambda: qualities(
                publisher.store, children.task, children.spec(path, publisher.name), live
            ),
        )

    def _train(self, child: Path, parent: Path, batches: Batches) -> Outcome:
        """Trains a child and gives it the parameters of its best round, if that was good enough.

        A child that diverged in any round is recorded with quality 0 and not kept.
        """
        started, method = time.monotonic(), self._experiment.method
        trained = tuple(c.name for c in child.trainable)
        threshold = self._least_gain(child) if method.succeeds else self._bar(child, parent)
        snapshot: TrainState | None = None
        qualities: list[float] = []
        curves: list[Curve] = []
        device_s, diverged, kept = 0.0, False, 0.0
        flops: list[float] = []
        for reached in self._children.train(child, batches):
            device_s += reached.device_s
            flops += [] if reached.flops is None else [reached.flops]
            curves.append(reached.curve)
            if not reached.finite:
                snapshot, diverged = None, True
                break
            qualities.append(reached.quality)
            child.quality = reached.quality
            merit = reached.gain if method.succeeds else self._population.score(child)
            if merit > threshold or (method.newest_wins and merit == threshold):
                threshold, snapshot, kept = merit, reached.state, reached.quality
        if snapshot is None:
            kept = 0.0 if diverged else max(qualities, default=0.0)
        child.quality = kept
        child.metrics["evaluations"] = qualities
        child.metrics[MEASURED] = self._children.measured
        if snapshot is not None:
            _keep_snapshot(child, snapshot)
        return Outcome(
            child, parent, trained, snapshot is not None,
            diverged=diverged,
            training=Curve.joined(curves).record(),
            seconds=time.monotonic() - started,
            device_s=device_s,
            search_flops=math.fsum(flops) if flops else None,
        )  # fmt: skip

    def _bar(self, child: Path, parent: Path) -> float:
        """The score that a child must reach: its parent's if that solves the same task."""
        own_only = self._experiment.method.beats_own_only
        same = parent.owner == child.owner if own_only else parent.task == child.task
        # The quality of an import may be unknown.
        return self._population.score(parent) if same and parent.quality is not None else -np.inf

    def _least_gain(self, child: Path) -> float:
        """The gain to exceed: none, or the margin if the child costs more than the best path."""
        best, margin = self._population.best(self._owner), self._experiment.method.margin
        return margin if best is None or _own(child) > _own(best) else 0.0


def _own(path: Path) -> int:
    """The parameters that no other owner's path uses."""
    return sum(c.num_params for c in path.trainable)


def _keep_snapshot(child: Path, snapshot: TrainState) -> None:
    for component in child.trainable:
        component.source = jax.tree.map(np.asarray, snapshot.params[component.name])
        component.trace = jax.tree.map(np.asarray, snapshot.momentum[component.name])
