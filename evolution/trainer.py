"""A task's data where the compiled programs want it, and the training of children on it.

Small data sets lie on the device, others stream through it, one chunk being read while the last is
used. What a frozen prefix makes of an unchanging input (validation always; training without
augmentation) is computed once, in the same way whether or not it is kept for the next child, so
that results do not depend on what ran before.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import Array
from numpy.typing import NDArray

from evolution.augment import DRAWS, Strengths
from evolution.experiments import Experiment
from evolution.population import ROOT, Component, Path
from evolution.tasks import Split, StreamedSplit, Task, TaskError
from evolution.training import (
    Hyperparameters,
    TrainState,
    boundary,
    count_correct,
    run_prefix,
    shuffled,
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
    """What all children of one generation train on: drawn anew, and the same, for each of them."""

    seed: int
    key: tuple[int, ...]  # tells the generation's stream from others of the seed
    examples: int  # in the training split
    batch_size: int
    steps_per_round: int
    rounds: int

    @property
    def steps(self) -> int:
        """Of a child's training."""
        return self.steps_per_round * self.rounds

    def drawn(self) -> Iterator[Drawn]:
        """The batches of each round."""
        rows, noise = (
            np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(*self.key, i)))
            for i in range(2)
        )
        stream = shuffled(rows, self.examples, self.batch_size)
        for i in range(self.rounds):
            order = np.stack(list(itertools.islice(stream, self.steps_per_round)))
            draws = noise.random((*order.shape, DRAWS), np.float32)
            yield Drawn(i * self.steps_per_round, order, draws)


class Drawn(NamedTuple):
    """Batches of consecutive steps."""

    first: int  # number of the first step
    order: NDArray[np.int32]  # [steps, batch]: rows of the training split
    draws: NDArray[np.float32]  # [steps, batch, DRAWS]: randomness of the augmentation


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
        """Moves the training set to the device if it is small enough. Raises TaskError."""
        for split in (task.train, task.validation, task.test):
            if not len(split):
                raise TaskError(f"task {task.name}: split {split.name} holds no example")
        self._experiment = experiment
        self._task = task
        self.validation_count = experiment.validation_count(len(task.validation))
        self._validation = _Evaluation(task.validation, self.validation_count)
        self._resident = self._features = None
        if len(task.train) * math.prod(task.train.shape) <= RESIDENT_BYTES:
            smallest = power_of_two(SMALLEST_TRAINING_BYTES // math.prod(task.train.shape) + 1) // 2
            rows = np.arange(len(task.train))
            self._resident = _on_device(*task.train.training_images(rows), smallest)

    def batches(self, seed: int, key: tuple[int, ...]) -> Batches:
        """Batches for the children of one generation."""
        experiment, examples = self._experiment, len(self._task.train)
        per_round = experiment.steps_per_round(examples)
        return Batches(
            seed, key, examples, experiment.batch_size, per_round, experiment.rounds_per_child
        )

    def test_accuracy(self, path: Path, arch: Architecture) -> float:
        """The share of the whole test split that the path classifies right."""
        test = _Evaluation(self._task.test, len(self._task.test))
        if self._experiment.mutate_adapters:
            path, arch = _with_all_adapters(path, arch)
        return test.accuracy(arch, path, 0, jax.device_put(_params(path.components)))

    def train(self, child: Path, arch: Architecture, batches: Batches) -> Iterator[Round]:
        """Trains one child, round by round; its components themselves do not change."""
        method, hp = self._experiment.method, child.hyperparameters
        traced = Hyperparameters.of(hp, batches.steps, batches.rounds, method.warmup_start)
        if self._experiment.mutate_adapters:
            child, arch = _with_all_adapters(child, arch)
        trainable = frozenset(c.name for c in child.components if c.trainable)
        prefix = boundary(arch, trainable)
        frozen = jax.device_put(_params(child.components[:prefix]))
        above = child.components[prefix:]
        momentum = {c.name: _trace(c, method.inherits_momentum) for c in above}
        state = jax.device_put(TrainState(_params(above), momentum))
        masks = {c.name: c.name in trainable for c in above}
        source = self._source(child, arch, prefix, traced, batches.steps)
        shared = self._validation.count * (self._experiment.rounds_per_child - 1)
        evaluated = prefix if _worthwhile(child, arch, prefix, shared) else 0
        for drawn in batches.drawn():
            started = time.monotonic()
            finite = True
            for first, inputs, labels, order, draws in source.chunks(drawn):
                state, finite = train_steps(
                    arch, prefix, source.augmentation, frozen, state, masks, traced,
                    inputs, labels, _padded(order), _padded(draws), first, len(order),
                )  # fmt: skip
            params = {**frozen, **state.params}
            quality = self._validation.accuracy(arch, child, evaluated, params)
            yield Round(quality, state, bool(finite), time.monotonic() - started)

    def _source(
        self, child: Path, arch: Architecture, prefix: int, hp: Hyperparameters, steps: int
    ) -> _Resident | _Streamed:
        split, batch_size = self._task.train, self._experiment.batch_size
        saved = steps * batch_size - len(split)
        # Where images were resized to one canvas, evaluation sees other pixels than training.
        as_evaluated = self._resident is not None and getattr(split, "originals", None) is None
        plain = as_evaluated and not _augments(hp.strengths)
        if plain and _worthwhile(child, arch, prefix, saved):
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

    def chunks(self, drawn: Drawn) -> Iterator[tuple[Any, ...]]:
        yield drawn.first, self.inputs, self.labels, drawn.order, drawn.draws


@dataclass(frozen=True, slots=True)
class _Streamed:
    """Training data that is read while it is used."""

    split: AnySplit
    batch_size: int
    augmentation: str

    def chunks(self, drawn: Drawn) -> Iterator[tuple[Any, ...]]:
        at_once = max(1, CHUNK_BYTES // (self.batch_size * math.prod(self.split.shape)))
        parts = [slice(i, i + at_once) for i in range(0, len(drawn.order), at_once)]
        with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
            read = reader.submit(self._read, drawn.order[parts[0]])
            for part, following in zip(parts, [*parts[1:], None], strict=True):
                inputs, labels = read.result()
                if following is not None:
                    read = reader.submit(self._read, drawn.order[following])
                order = np.arange(len(labels), dtype=np.int32).reshape(-1, self.batch_size)
                rows = power_of_two(at_once * self.batch_size)
                inputs, labels = _on_device(inputs, labels, rows)
                yield drawn.first + part.start, inputs, labels, order, drawn.draws[part]

    def _read(self, order: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        return self.split.training_images(order.reshape(-1))


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
    return (
        arch.image_size,
        _ends_in_last_block(arch, prefix),
        *(component.id for component in path.components[:prefix]),
    )


def _ends_in_last_block(arch: Architecture, prefix: int) -> bool:
    """Whether only the class token comes out of the prefix (vit.apply)."""
    return arch.num_layers > 0 and prefix == arch.component_names.index("encoder_norm")


def _worthwhile(path: Path, arch: Architecture, prefix: int, passes: int) -> bool:
    """Whether to run a prefix once instead of in each of so many further passes of an image."""
    each = 2 * arch.tokens * sum(component.num_params for component in path.components[:prefix])
    return each * passes > WORTHWHILE_FLOPS


def _feature_bytes(arch: Architecture, prefix: int) -> int:
    """float32 bytes of one example where it enters the component after the prefix."""
    if prefix == 0:
        return arch.image_size**2 * 3 * 4
    return (1 if _ends_in_last_block(arch, prefix) else arch.tokens) * arch.width * 4


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
