"""The training of routers and connectors over frozen paths, and their evaluation.

A frozen path always gives the same answer to an unchanged image. So its answers to all examples of
a split are computed once and kept for every child that uses the path. Without augmentation,
training then sees images as evaluation does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from evolution.data.tasks import Task
from evolution.experiments.experiment import Experiment
from evolution.multipath.frozen_paths import Part, parts_of
from evolution.multipath.programs import (
    Answers,
    judge_mixed,
    mean_weights_of,
    train_on_answers,
    train_on_images,
)
from evolution.multipath.sampling import ROUTER_RATE
from evolution.population import Component, Path
from evolution.training.batches import (
    AnySplit,
    Batches,
    Drawn,
    Resident,
    Streamed,
    augments,
    chunks,
    may_stay,
    on_device,
    padded,
    power_of_two,
    require_examples,
    resident_images,
)
from evolution.training.calibration import calibration
from evolution.training.objectives import Judged, Objective
from evolution.training.programs import (
    Descent,
    Hyperparameters,
    TrainState,
    compute_dtype,
    run_prefix,
)
from evolution.training.trainer import Round
from model_store import Digest
from vit.components import Tree
from vit.mixer import SubPath, mixer_names

Key = tuple[SubPath, tuple[Digest, ...]]
Descents = list[tuple[Descent, int]]  # of each call that trained, and the number of its steps
Step = Callable[[TrainState, Drawn], tuple[TrainState, Descents]]


class MixerTrainer:
    """Trains and evaluates multipath candidates of one task."""

    def __init__(
        self, experiment: Experiment, task: Task, validation_count: int | None = None
    ) -> None:
        """Does not read data yet. Raises TaskError for a split without examples.

        `validation_count` replaces the experiment's number of validation examples.
        """
        require_examples(task)
        self._experiment = experiment
        self._task = task
        self._training = _Answers(task.objective, task.train, len(task.train))
        wanted = experiment.validation_count(len(task.validation))
        self.validation_count = wanted if validation_count is None else validation_count
        self._validation = _Answers(task.objective, task.validation, self.validation_count)
        self._images: Resident | Streamed | None = None

    def train(self, child: Path, batches: Batches) -> Iterator[Round]:
        """Trains one child, round by round. Does not change its components."""
        method, hp = self._experiment.method, child.hyperparameters
        started = time.monotonic()
        parts, mixer = parts_of(child), mixer_of(child)
        traced = Hyperparameters.of(hp, batches.steps, batches.rounds, method.warmup_start)
        params = {component.name: component.params for component in mixer}
        momentum = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.bfloat16), params)
        state = jax.device_put(TrainState(params, momentum))
        step = self._step(parts, traced, float(hp[ROUTER_RATE]))
        validation = self._validation.of(parts)
        for drawn in batches.drawn():
            state, descents = step(state, drawn)
            quality, finite = self._validation.quality(state.params, validation)
            yield Round.of(quality, finite, state, descents, started)
            started = time.monotonic()

    def validation_quality(self, path: Path) -> float:
        """The quality of a candidate's answers to the validation examples."""
        answers = self._validation.of(parts_of(path))
        return self._validation.quality(_params(mixer_of(path)), answers)[0]

    def tested(self, path: Path) -> dict[str, Any]:
        """`test_quality`, of the answers to the whole test split, and `calibration`."""
        task, mixer = self._task, _params(mixer_of(path))
        splits = _Answers(task.objective, task.test, len(task.test)), self._validation
        test, validation = (each.judged(mixer, each.of(parts_of(path)))[0] for each in splits)
        return {
            "test_quality": task.objective.quality([test]),
            "calibration": calibration(task.activation, [validation], [test]),
        }

    def mean_weights(self, path: Path) -> list[float]:
        """The router's mean weight of each path over the validation images."""
        main = self._validation.of(parts_of(path)[:1])[0]
        return mean_weights_of(_params(mixer_of(path)), main, self.validation_count)

    def _step(self, parts: Sequence[Part], hp: Hyperparameters, router_rate: float) -> Step:
        """The function that trains a round of steps of a candidate of these parts."""
        outputs = sum(part.network.outputs for part in parts)
        fits = may_stay(4 * outputs * power_of_two(len(self._task.train)))
        if fits and not augments(hp.strengths):
            answers = self._training.of(parts)
            known = (self._task.objective, answers, self._training.labels)
            return partial(_step_on_answers, *known, hp, router_rate)
        networks = tuple(_shared(part.network) for part in parts)
        frozen = jax.device_put(tuple(_own(part) for part in parts))
        dtype = compute_dtype(self._experiment.bfloat16)
        known = (self._task.objective, networks, dtype, frozen, self._source())
        return partial(_step_on_images, *known, hp, router_rate)

    def _source(self) -> Resident | Streamed:
        if self._images is None:
            augmentation = "bytes" if self._experiment.method.augments_bytes else "scaled"
            images = resident_images(self._task.train)
            self._images = (
                Streamed(self._task.train, self._experiment.batch_size, augmentation)
                if images is None
                else Resident(*images, augmentation)
            )
        return self._images


def _step_on_answers(
    objective: Objective,
    answers: Answers,
    labels: Array,
    hp: Hyperparameters,
    router_rate: float,
    state: TrainState,
    drawn: Drawn,
) -> tuple[TrainState, Descents]:
    steps = len(drawn.order)
    state, descent = train_on_answers(
        objective, state, hp, router_rate, answers, labels, padded(drawn.order), drawn.first,
        steps,
    )  # fmt: skip
    return state, [(descent, steps)]


def _step_on_images(
    objective: Objective,
    networks: tuple[SubPath, ...],
    dtype: Any,
    frozen: tuple[dict[str, Tree], ...],
    source: Resident | Streamed,
    hp: Hyperparameters,
    router_rate: float,
    state: TrainState,
    drawn: Drawn,
) -> tuple[TrainState, Descents]:
    descents: Descents = []
    for first, images, labels, order, draws in source.chunks(drawn):
        state, descent = train_on_images(
            objective, networks, source.augmentation == "bytes", dtype, frozen, state, hp,
            router_rate, images, labels, padded(order), padded(draws), first, len(order),
        )  # fmt: skip
        descents.append((descent, len(order)))
    return state, descents


def mixer_of(path: Path) -> list[Component]:
    """The router and the connectors of a multipath candidate."""
    named = (path.named(name) for name in mixer_names(len(parts_of(path))))
    return [component for component in named if component]


def _params(components: Sequence[Component]) -> dict[str, Tree]:
    return {component.name: component.params for component in components}


def _shared(network: SubPath) -> SubPath:
    """The same network; without a head, the number of classes is set to 1 to share programs."""
    if network.has_head:
        return network
    return SubPath(replace(network.architecture, num_classes=1), has_head=False)


def _own(part: Part) -> dict[str, Tree]:
    """The parameters of a part, by the names that they have in its network."""
    names = part.network.component_names
    return {name: c.params for name, c in zip(names, part.components, strict=True)}


class _Answers:
    """The answers of paths to the first `count` examples of a split, kept on the device."""

    def __init__(self, objective: Objective, split: AnySplit, count: int) -> None:
        self._objective = objective
        self._split = split
        self._count = count
        self._kept: dict[Key, Array] = {}
        self.labels: Array = jnp.zeros(0, jnp.int32)  # until a first path has run

    def of(self, parts: Sequence[Part]) -> Answers:
        """Answers [n, outputs] of each part; n is `count`, padded to a power of two."""
        keys = [(_shared(part.network), part.digests) for part in parts]
        found: dict[Key, Array] = {}
        for key, part in zip(keys, parts, strict=True):
            kept = self._kept.pop(key, None)
            found[key] = self._computed(part) if kept is None else kept
        self._kept |= found  # the last used come last
        while len(self._kept) > len(found) and not may_stay(self._bytes()):
            del self._kept[next(iter(self._kept))]
        return tuple(found[key] for key in keys)

    def _bytes(self) -> int:
        return sum(answers.nbytes for answers in self._kept.values())

    def _computed(self, part: Part) -> Array:
        network, params = _shared(part.network), jax.device_put(_own(part))
        arch, depth = network.architecture, len(network.component_names)
        answers, labels = [], []
        for chunk in chunks(self._split, self._count, arch.image_size):
            found = run_prefix(arch, depth, params, chunk.inputs)
            answers.append(np.asarray(found[: chunk.count]))
            labels.append(np.asarray(chunk.labels[: chunk.count]))
        on_it, self.labels = on_device(np.concatenate(answers), np.concatenate(labels), 1)
        return on_it

    def quality(self, mixer: dict[str, Tree], answers: Answers) -> tuple[float, bool]:
        """The quality of a router and connectors; whether all answers are finite."""
        judged, finite = self.judged(mixer, answers)
        return self._objective.quality([judged]), finite

    def judged(self, mixer: dict[str, Tree], answers: Answers) -> tuple[Judged, bool]:
        """The answers of a router and connectors; whether all are finite."""
        found, finite = judge_mixed(mixer, answers, self.labels, self._count)
        return Judged(found, self.labels, self._count), bool(finite)
