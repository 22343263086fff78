"""A task's data where the compiled programs want it, and the training of children on it.

Small data sets lie on the device, others stream through it, one chunk being read while the last is
used. What a frozen prefix makes of an unchanging input (validation always; training without
augmentation) is computed once, in the same way whether or not it is kept for the next child, so
that results do not depend on what ran before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import Array
from numpy.typing import NDArray

from evolution.augment import DRAWS, Strengths
from evolution.experiments import Experiment
from evolution.population import ROOT, Component, Path
from evolution.tasks import Split, StreamedSplit, Task
from evolution.training import (
    Hyperparameters,
    TrainState,
    boundary,
    count_correct,
    epochs,
    run_prefix,
    train_steps,
)
from vit import Architecture, shapes
from vit.components import Tree

RESIDENT_BYTES = 2 << 30  # a training set or its features up to this size stay on the device
CHUNK_BYTES = 64 << 20  # of images that stream or are evaluated
# Operations that must be saved for a frozen prefix to be run apart: the programs that start above
# it have to be compiled as well.
WORTHWHILE_FLOPS = 1e9
# Data sets and step counts are padded to powers of two from here up, so that tasks of about one
# size share compiled programs.
SMALLEST_TRAINING_BYTES = 16 << 20
SMALLEST_EVALUATION = 1024  # images
SMALLEST_STEPS = 16

NO_ADAPTER = -1  # id of an adapter that is not there

AnySplit = Split | StreamedSplit


@dataclass(frozen=True, slots=True)
class Batches:
    """What all children of one generation train on."""

    order: NDArray[np.int32]  # [steps, batch]: rows of the training split
    draws: NDArray[np.float32]  # [steps, batch, DRAWS]: randomness of the augmentation
    steps_per_round: int

    @classmethod
    def drawn(cls, rng: np.random.Generator, experiment: Experiment, examples: int) -> Batches:
        """Batches for one child's training on that many examples."""
        per_round = experiment.steps_per_round(examples)
        steps = per_round * experiment.rounds_per_child
        order = epochs(rng, examples, experiment.batch_size, steps)
        return cls(order, rng.random((*order.shape, DRAWS), np.float32), per_round)

    def rounds(self) -> Iterator[slice]:
        """The steps of each round."""
        for first in range(0, len(self.order), self.steps_per_round):
            yield slice(first, min(first + self.steps_per_round, len(self.order)))


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of training reached."""

    quality: float  # validation accuracy
    state: TrainState
    finite: bool  # whether all parameters are numbers
    device_s: float  # seconds from the first call of a compiled program to the last result


class Trainer:
    """Trains and evaluates paths of one task."""

    def __init__(self, experiment: Experiment, task: Task) -> None:
        """Moves the training set to the device if it is small enough."""
        self._experiment = experiment
        self._task = task
        self.validation_count = experiment.validation_count(len(task.validation))
        self._validation = _Evaluation(task.validation, self.validation_count)
        self._resident = self._features = None
        if len(task.train) * math.prod(task.train.shape) <= RESIDENT_BYTES:
            smallest = power_of_two(SMALLEST_TRAINING_BYTES // math.prod(task.train.shape) + 1) // 2
            rows = np.arange(len(task.train))
            self._resident = _on_device(*task.train.training_images(rows), smallest)

    def batches(self, rng: np.random.Generator) -> Batches:
        """Batches for the children of one generation."""
        return Batches.drawn(rng, self._experiment, len(self._task.train))

    def test_accuracy(self, path: Path, arch: Architecture) -> float:
        """The share of the whole test split that the path classifies right."""
        test = _Evaluation(self._task.test, len(self._task.test))
        return test.accuracy(arch, path, 0, jax.device_put(_params(path.components)))

    def train(self, child: Path, arch: Architecture, batches: Batches) -> Iterator[Round]:
        """Trains one child, round by round; its components themselves do not change."""
        method, hp = self._experiment.method, child.hyperparameters
        traced = Hyperparameters.of(
            hp, len(batches.order), self._experiment.rounds_per_child, method.warmup_start
        )
        if self._experiment.mutate_adapters:
            child, arch = _with_all_adapters(child, arch)
        trainable = frozenset(c.name for c in child.components if c.trainable)
        prefix = boundary(arch, trainable)
        frozen = jax.device_put(_params(child.components[:prefix]))
        above = child.components[prefix:]
        momentum = {c.name: _trace(c, method.inherits_momentum) for c in above}
        state = jax.device_put(TrainState(_params(above), momentum))
        masks = {c.name: c.name in trainable for c in above}
        source = self._source(child, arch, prefix, traced, len(batches.order))
        shared = self._validation.count * (self._experiment.rounds_per_child - 1)
        evaluated = prefix if _worthwhile(child, arch, prefix, shared) else 0
        for steps in batches.rounds():
            started = time.monotonic()
            finite = True
            for first, inputs, labels, order, draws in source.chunks(batches, steps):
                state, finite = train_steps(
                    arch, prefix, source.augmentation, frozen, state, masks, traced,
                    inputs, labels, _padded(order), _padded(draws), first, len(order),
                )  # fmt: skip
            above = {**frozen, **state.params}
            quality = self._validation.accuracy(arch, child, evaluated, above)
            yield Round(quality, state, bool(finite), time.monotonic() - started)

    def _source(
        self, child: Path, arch: Architecture, prefix: int, hp: Hyperparameters, steps: int
    ) -> _Resident | _Streamed:
        split, batch_size = self._task.train, self._experiment.batch_size
        saved = steps * batch_size - len(split)
        if not _augments(hp.strengths) and _worthwhile(child, arch, prefix, saved):
            features = self._training_features(child, arch, prefix)
            if features is not None:
                return features
        augmentation = "bytes" if self._experiment.method.augments_bytes else "scaled"
        if self._resident is not None:
            return _Resident(*self._resident, augmentation)
        return _Streamed(split, batch_size, augmentation)

    def _training_features(self, child: Path, arch: Architecture, prefix: int) -> _Resident | None:
        """What the frozen prefix makes of the training images, if that is small enough to keep."""
        split = self._task.train
        if _feature_bytes(arch, prefix) * power_of_two(len(split)) > RESIDENT_BYTES:
            return None
        key = _prefix_key(child, arch, prefix)
        if self._features is None or self._features[0] != key:
            self._features = None  # frees the former before the next takes its place
            data = _Evaluation(split, len(split))
            chunks = list(data.inputs(arch, child, prefix))
            inputs = jnp.concatenate([c.inputs[: c.count] for c in chunks])
            labels = jnp.concatenate([c.labels[: c.count] for c in chunks])
            missing = power_of_two(len(labels)) - len(labels)
            inputs = jnp.pad(inputs, [(0, missing)] + [(0, 0)] * (inputs.ndim - 1))
            self._features = (key, _Resident(inputs, jnp.pad(labels, (0, missing)), "none"))
        return self._features[1]


# ---- training data


@dataclass(frozen=True, slots=True)
class _Resident:
    """Training data that lies on the device."""

    inputs: Array
    labels: Array
    augmentation: str

    def chunks(self, batches: Batches, steps: slice) -> Iterator[tuple[Any, ...]]:
        yield steps.start, self.inputs, self.labels, batches.order[steps], batches.draws[steps]


@dataclass(frozen=True, slots=True)
class _Streamed:
    """Training data that is read while it is used."""

    split: AnySplit
    batch_size: int
    augmentation: str

    def chunks(self, batches: Batches, steps: slice) -> Iterator[tuple[Any, ...]]:
        at_once = max(1, CHUNK_BYTES // (self.batch_size * math.prod(self.split.shape)))
        parts = [
            slice(i, min(i + at_once, steps.stop)) for i in range(steps.start, steps.stop, at_once)
        ]
        with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
            read = reader.submit(self._read, batches, parts[0])
            for part, following in zip(parts, [*parts[1:], None], strict=True):
                inputs, labels = read.result()
                if following is not None:
                    read = reader.submit(self._read, batches, following)
                order = np.arange(len(labels), dtype=np.int32).reshape(-1, self.batch_size)
                inputs, labels = _on_device(inputs, labels, at_once * self.batch_size)
                yield part.start, inputs, labels, order, batches.draws[part]

    def _read(self, batches: Batches, part: slice) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        return self.split.training_images(batches.order[part].reshape(-1))


def _augments(strengths: Strengths) -> bool:
    """Whether an image changes at all: the bounds of a crop alone do nothing."""
    return any(v for name, v in strengths._asdict().items() if not name.endswith("_min"))


# ---- evaluation


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows to evaluate, on the device; the first `count` are real."""

    inputs: Array
    labels: Array
    count: int


class _Evaluation:
    """The first `count` examples of a split as they enter a path, without augmentation."""

    def __init__(self, split: AnySplit, count: int) -> None:
        self._split = split
        self.count = count
        self._kept: tuple[Any, list[_Chunk]] | None = None  # of one prefix

    def accuracy(
        self, arch: Architecture, path: Path, prefix: int, params: Mapping[str, Tree]
    ) -> float:
        """The share classified right by the path, with `params` instead of its own.

        Its first `prefix` components are its own.
        """
        above = {name: params[name] for name in arch.component_names[prefix:]}
        correct = [
            count_correct(arch, prefix, above, c.inputs, c.labels, c.count)
            for c in self.inputs(arch, path, prefix)
        ]
        return sum(int(c) for c in correct) / self.count

    def inputs(self, arch: Architecture, path: Path, prefix: int) -> Iterator[_Chunk]:
        """What the path's first `prefix` components make of the images, chunk by chunk."""
        key = _prefix_key(path, arch, prefix)
        if self._kept is not None and self._kept[0] == key:
            yield from self._kept[1]
            return
        self._kept, kept = None, []
        fits = _feature_bytes(arch, prefix) * power_of_two(self.count) <= RESIDENT_BYTES
        frozen = jax.device_put(_params(path.components[:prefix]))
        for chunk in self._read(arch.image_size):
            features = run_prefix(arch, prefix, frozen, chunk.inputs) if prefix else chunk.inputs
            kept.append(_Chunk(features, chunk.labels, chunk.count))
            yield kept[-1]
            if not fits:
                kept.clear()
        if fits:
            self._kept = key, kept

    def _read(self, size: int) -> Iterator[_Chunk]:
        rows_at_once = max(1, CHUNK_BYTES // (size * size * 3 * 4))
        rows_at_once = 1 << (rows_at_once.bit_length() - 1)
        smallest = min(rows_at_once, SMALLEST_EVALUATION)
        for first in range(0, self.count, rows_at_once):
            rows = np.arange(first, min(first + rows_at_once, self.count))
            inputs, labels = self._split.evaluation_inputs(rows, size)
            yield _Chunk(*_on_device(inputs, labels, smallest), len(rows))


def _prefix_key(path: Path, arch: Architecture, prefix: int) -> tuple[Any, ...]:
    return arch.image_size, *(component.id for component in path.components[:prefix])


def _worthwhile(path: Path, arch: Architecture, prefix: int, passes: int) -> bool:
    """Whether to run a prefix once instead of in each of so many further passes of an image."""
    each = 2 * arch.tokens * sum(component.num_params for component in path.components[:prefix])
    return each * passes > WORTHWHILE_FLOPS


def _feature_bytes(arch: Architecture, prefix: int) -> int:
    """float32 bytes of one example where it enters the component after the prefix."""
    if prefix == 0:
        return arch.image_size**2 * 3 * 4
    after_last_block = prefix == arch.component_names.index("encoder_norm") and arch.num_layers
    return (1 if after_last_block else arch.tokens) * arch.width * 4


# ---- arrays


def power_of_two(at_least: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (at_least - 1).bit_length()


def _on_device(
    images: NDArray[Any], labels: NDArray[np.int32], smallest: int
) -> tuple[Array, Array]:
    missing = max(power_of_two(len(labels)), smallest) - len(labels)
    padded = np.pad(images, [(0, missing)] + [(0, 0)] * (images.ndim - 1))
    return jnp.asarray(padded), jnp.asarray(np.pad(labels, (0, missing)))


def _padded(steps: NDArray[Any]) -> NDArray[Any]:
    missing = max(power_of_two(len(steps)), SMALLEST_STEPS) - len(steps)
    return np.pad(steps, [(0, missing)] + [(0, 0)] * (steps.ndim - 1))


def _with_all_adapters(child: Path, arch: Architecture) -> tuple[Path, Architecture]:
    """The same function with an adapter before every block: those it lacks add zero.

    So all sets of adapters share one program; an adapter costs some 3 % of its block.
    """
    arch = replace(arch, adapters=tuple(range(arch.num_layers)))
    known = {component.name: component for component in child.components}
    components = tuple(
        known.get(name) or Component(NO_ADAPTER, name, _zeros(shapes(arch, name)), 0, locks={ROOT})
        for name in arch.component_names
    )
    return replace(child, components=components), arch


def _zeros(tree: Any) -> Tree:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)


def _params(components: tuple[Component, ...]) -> dict[str, Tree]:
    return {component.name: component.params for component in components}


def _trace(component: Component, inherits: bool) -> Tree:
    if inherits and component.momentum is not None:
        return component.momentum
    return jax.tree.map(lambda p: np.zeros(p.shape, ml_dtypes.bfloat16), component.params)
