"""Multipath candidates as the children of a search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from evolution.data.tasks import Task
from evolution.experiments.experiment import Experiment
from evolution.multipath.frozen_paths import Part, freeze, parts_of
from evolution.multipath.sampling import Origin, main_paths, make_child
from evolution.multipath.specs import PublishedPart, multipath_spec
from evolution.multipath.trainer import MixerTrainer, mixer_of
from evolution.population import ROOT, Path, Population
from evolution.publication import fields_of, lineage_of, metrics_of
from evolution.state import Progress
from evolution.training.batches import Batches
from evolution.training.programs import forward_flops
from evolution.training.trainer import Round
from evolution.training.validation import compared, measure_again, measured_on, validation_count
from model_store import TaskPath


class MultipathPaths:
    """Children of an agent that mix paths of others (evolution.children.Children)."""

    def __init__(
        self,
        experiment: Experiment,
        task: Task,
        population: Population,
        progress: Progress,
        owner: str,
    ) -> None:
        """Raises TaskError, and StateError without a single path to start from.

        Own paths that were measured on other examples are measured again.
        """
        self._experiment = experiment
        self.task = task
        self._population = population
        self._progress = progress
        self._origin = Origin(owner, task.name, task.num_classes, progress.architecture)
        main_paths(population, self._origin)  # without any, a cycle must not start
        own = compared(population, owner, task.name, own_only=True)
        count = validation_count(experiment, task, own)
        self.measured = measured_on(task.name, task.validation, count)
        self._trainer = MixerTrainer(experiment, task, count)
        for path in population.paths.get(owner, ()):
            freeze(path)
        measure_again(own, self.measured, self._trainer.validation_quality)

    def batches(self, seed: int, key: tuple[int, ...]) -> Batches:
        """Batches for the children of one generation."""
        return Batches.of(self._experiment, self.task, seed, key)

    def child(
        self, number: int, data_hp: dict[str, Any], rng: np.random.Generator
    ) -> tuple[Path, Path]:
        """A new child and its parent, which counts it if it is an own path."""
        child, parent = make_child(self._population, self._origin, self._experiment, data_hp, rng)
        child.private = child.private or self.task.private
        networks = [part.network.architecture for part in parts_of(child)]
        child.metrics["flops"] = sum(forward_flops(arch) for arch in networks)  # without the mixing
        return child, parent

    def train(self, child: Path, batches: Batches) -> Iterator[Round]:
        """Trains a child's router and connectors by rounds. Does not change its components."""
        return self._trainer.train(child, batches)

    def tested(self, path: Path) -> dict[str, Any]:
        """What is measured of a path when its search is over (evolution.children.Children)."""
        return self._trainer.tested(path)

    def spec(self, path: Path, run: str) -> TaskPath:
        """The path spec of a retained path whose components are stored."""
        mixer = mixer_of(path)
        metrics = metrics_of(path, self.task)
        router = {
            "mean_weights": self._trainer.mean_weights(path),
            **{key: metrics["validation"][key] for key in ("split", "examples")},
        }
        spec = multipath_spec(
            self.task.name,
            self.task.labels,
            [_published(part) for part in parts_of(path)],
            {component.name: component.digest for component in mixer if component.digest},
            decoding=self.task.decoding,
            hyperparameters=dict(path.hyperparameters),
            metrics={**metrics, "router": router},
            parameters={
                "total": path.num_params,
                "trainable": sum(component.num_params for component in mixer),
            },
            lineage=lineage_of(path, self._progress, run, self._experiment.method.name),
            private=path.private,
        )
        return replace(spec, extra=fields_of(path, self.task))


def _published(part: Part) -> PublishedPart:
    names = part.network.component_names
    return PublishedPart(
        task=None if part.task == ROOT else part.task,
        agent=part.agent,
        manifest=part.manifest,
        network=part.network,
        components=dict(zip(names, part.digests, strict=True)),
    )
