"""A task's data on the device: batches and chunks of examples.

Small data sets stay on the device. Others stream through it: one chunk is read while the one before
is used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from evolution.data.images import Labels
from evolution.data.tasks import Split, StreamedSplit, Task, TaskError
from evolution.experiments.experiment import Experiment
from evolution.training.augment import DRAWS, Strengths
from evolution.training.programs import shuffled

RESIDENT_BYTES = 2 << 30  # a training set or its features up to this size stay on the device
CHUNK_BYTES = 64 << 20  # of images that stream or are evaluated
# Data sets and step counts are padded to powers of two from here up, so that tasks of similar size
# share compiled programs.
SMALLEST_TRAINING_BYTES = 16 << 20
SMALLEST_EVALUATION = 256  # images
SMALLEST_STEPS = 16

AnySplit = Split | StreamedSplit


def may_stay(size_bytes: int) -> bool:
    """Whether a training set, or its features, may stay on the device."""
    return size_bytes <= RESIDENT_BYTES


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of a generation: drawn again, and the same, for each of its children."""

    seed: int
    key: tuple[int, ...]  # tells the generation's stream from others of the seed
    examples: int  # in the training split
    batch_size: int
    steps_per_round: int
    rounds: int

    @classmethod
    def of(cls, experiment: Experiment, task: Task, seed: int, key: tuple[int, ...]) -> Batches:
        """The batches for an experiment's children of a task."""
        examples = len(task.train)
        per_round = experiment.steps_per_round(examples)
        rounds = experiment.rounds_per_child
        return cls(seed, key, examples, experiment.batch_size, per_round, rounds)

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
class Resident:
    """Training data on the device."""

    inputs: Array
    labels: Array
    augmentation: str

    def chunks(self, drawn: Drawn) -> Iterator[tuple[Any, ...]]:
        """First step, inputs, labels, order and draws of each part of the batches."""
        yield drawn.first, self.inputs, self.labels, drawn.order, drawn.draws


@dataclass(frozen=True, slots=True)
class Streamed:
    """Training data that is read while it is used."""

    split: AnySplit
    batch_size: int
    augmentation: str

    def chunks(self, drawn: Drawn) -> Iterator[tuple[Any, ...]]:
        """As `Resident.chunks`."""
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
                inputs, labels = on_device(inputs, labels, rows)
                yield drawn.first + part.start, inputs, labels, order, drawn.draws[part]

    def _read(self, order: NDArray[np.int32]) -> tuple[NDArray[np.uint8], Labels]:
        return self.split.training_images(order.reshape(-1))


def require_examples(task: Task) -> None:
    """Raises TaskError if a split of the task is empty."""
    for split in (task.train, task.validation, task.test):
        if not len(split):
            raise TaskError(f"task {task.name}: split {split.name} holds no example")


def resident_images(split: AnySplit) -> tuple[Array, Array] | None:
    """Training images and labels on the device; None if they are too large for it."""
    each = math.prod(split.shape)
    if not may_stay(len(split) * each):
        return None
    smallest = power_of_two(SMALLEST_TRAINING_BYTES // each + 1) // 2
    return on_device(*split.training_images(np.arange(len(split))), smallest)


def augments(strengths: Strengths) -> bool:
    """Whether these strengths change an image. The bounds of a crop alone do not."""
    return any(v for name, v in strengths._asdict().items() if not name.endswith("_min"))


# ---- evaluation data


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows to evaluate, on the device; the first `count` are real."""

    inputs: Array
    labels: Array
    count: int


def chunks(split: AnySplit, count: int, size: int, largest: int | None = None) -> Iterator[Chunk]:
    """The first `count` examples as they enter a path of that image size when evaluated.

    `largest` is the size that chunks are cut for, if the same rows are needed at several sizes.
    """
    rows_at_once = max(1, CHUNK_BYTES // ((largest or size) ** 2 * 3 * 4))
    rows_at_once = 1 << (rows_at_once.bit_length() - 1)
    smallest = min(rows_at_once, SMALLEST_EVALUATION)
    for first in range(0, count, rows_at_once):
        rows = np.arange(first, min(first + rows_at_once, count))
        inputs, labels = split.evaluation_inputs(rows, size)
        yield Chunk(*on_device(inputs, labels, smallest), len(rows))


# ---- arrays


def power_of_two(at_least: int) -> int:
    """The smallest power of two that is `at_least` or more."""
    return 1 << (at_least - 1).bit_length()


def on_device(images: NDArray[Any], labels: Labels, smallest: int) -> tuple[Array, Array]:
    """Images and labels, padded with zeros to a power of two, `smallest` or more."""
    missing = max(power_of_two(len(labels)), smallest) - len(labels)
    return jnp.asarray(_longer(images, missing)), jnp.asarray(_longer(labels, missing))


def padded(steps: NDArray[Any]) -> NDArray[Any]:
    """The inputs of each step, padded with zeros to the number of steps of a compiled program."""
    missing = max(power_of_two(len(steps)), SMALLEST_STEPS) - len(steps)
    return _longer(steps, missing)


def _longer(array: NDArray[Any], missing: int) -> NDArray[Any]:
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
