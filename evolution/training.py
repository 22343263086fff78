"""Trains the unlocked components of a child and evaluates it.

A round of training is one loop on the device over data that lies there already. A compiled program
depends on the architecture, the batch size, the depth of the frozen prefix, and the shape of the
data, which is padded so that most tasks share one, only:
hyperparameters, the number of steps and the choice of trainable components above the prefix are
traced values, so children of one shape share programs. Numbers of the optimiser: spec/munet.md §5
and spec/mu2net.md §8.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from evolution.augment import Strengths, augment
from vit import Architecture, forward, preprocess
from vit.components import Tree
from vit.forward import fold

EVALUATION_ROWS = 128  # images per step of the evaluation loop
# Data sets and step counts are padded to powers of two from here up, so that tasks of about one
# size share compiled programs.
SMALLEST_TRAINING_BYTES = 16 << 20
SMALLEST_EVALUATION = 1024  # images
SMALLEST_STEPS = 64
MAX_GRADIENT_NORM = 1.0
SCHEDULES = ("constant", "cosine", "restarts")


class Hyperparameters(NamedTuple):
    """The traced hyperparameters of one child; scalars."""

    learning_rate: Any
    warmup_steps: Any
    schedule_steps: Any  # steps until the curve reaches 0
    constant: Any  # 1: half the learning rate throughout
    momentum: Any
    nesterov: Any  # 0 or 1
    strengths: Strengths

    @classmethod
    def of(cls, hp: Mapping[str, Any], steps: int, rounds: int) -> Hyperparameters:
        """From a path's hyperparameters and the length of its training."""
        schedule = hp["opt_lr_schedule"]
        if schedule not in SCHEDULES:
            raise ValueError(f"opt_lr_schedule {schedule!r}: expected one of {SCHEDULES}")
        curve = steps // rounds if schedule == "restarts" else steps
        return cls(
            learning_rate=float(hp["opt_lr"]),
            warmup_steps=int(hp["opt_lr_warmup_ratio"] * curve),
            schedule_steps=curve,
            constant=float(schedule == "constant"),
            momentum=float(hp["opt_momentum"] or 0.0),  # None: plain SGD
            nesterov=float(hp["opt_nesterov"]),
            strengths=Strengths.of(hp),
        )


@dataclass(frozen=True, slots=True)
class DeviceData:
    """A data set on the device, padded in rows; `count` rows are real."""

    images: Array  # uint8 [rows, h, w, c] for training, float32 [rows, s, s, 3] for evaluation
    labels: Array  # int32 [rows]
    count: int


def _power_of_two(at_least: int) -> int:
    return 1 << (at_least - 1).bit_length()


def _on_device(images: NDArray[Any], labels: NDArray[np.int32], smallest: int) -> DeviceData:
    missing = max(_power_of_two(len(labels)), smallest) - len(labels)
    padded = np.pad(images, [(0, missing)] + [(0, 0)] * (images.ndim - 1))
    return DeviceData(jnp.asarray(padded), jnp.asarray(np.pad(labels, (0, missing))), len(labels))


def training_data(images: NDArray[np.uint8], labels: NDArray[np.int32]) -> DeviceData:
    """uint8 images [n, h, w, c] and labels [n], on the device as they are."""
    image_bytes = math.prod(images.shape[1:])
    return _on_device(
        images, labels, _power_of_two(SMALLEST_TRAINING_BYTES // image_bytes + 1) // 2
    )


def evaluation_data(
    images: NDArray[np.uint8], labels: NDArray[np.int32], image_size: int
) -> DeviceData:
    """The same, preprocessed once for evaluation at `image_size`."""
    return _on_device(preprocess(images, image_size), labels, SMALLEST_EVALUATION)


def epochs(rng: np.random.Generator, count: int, batch: int, steps: int) -> NDArray[np.int32]:
    """Indices [steps, batch] of an endless stream of reshuffled passes over `count` examples."""
    passes = math.ceil(steps * batch / count)
    stream = np.concatenate([rng.permutation(count) for _ in range(passes)])
    return stream[: steps * batch].reshape(steps, batch).astype(np.int32)


def boundary(arch: Architecture, trainable: frozenset[str]) -> int:
    """How many leading components are frozen, in the few steps that have programs of their own.

    The three components before the first block count as one, and so do norm and head.
    """
    names = arch.component_names
    lowest = min((i for i, name in enumerate(names) if name in trainable), default=len(names))
    if lowest < names.index("posembed_input") + 1:
        return 0
    return min(lowest, names.index("encoder_norm"))


class TrainState(NamedTuple):
    """What training changes: parameters and momentum above the frozen prefix, by component."""

    params: dict[str, Tree]
    momentum: dict[str, Tree]  # bfloat16


def learning_rate(step: Array, hp: Hyperparameters) -> Array:
    """The learning rate of one step, counted from 0: warm-up from 1 % of the peak, then cosine."""
    at = step % hp.schedule_steps
    rising = 0.01 + 0.99 * at / jnp.maximum(hp.warmup_steps, 1)
    remaining = jnp.maximum(hp.schedule_steps - hp.warmup_steps, 1)
    falling = 0.5 * (1 + jnp.cos(jnp.pi * (at - hp.warmup_steps) / remaining))
    curve = jnp.where(at < hp.warmup_steps, rising, falling)
    return hp.learning_rate * jnp.where(hp.constant > 0, 0.5, curve)


def _sgd(
    params: Array, momentum: Array, grads: Array, mask: Array, rate: Array, hp: Hyperparameters
) -> tuple[Array, Array]:
    """One step of clipped SGD over flat vectors; where `mask` is False, nothing changes a bit."""
    grads = jnp.where(mask, grads, 0)
    norm = optax.tree.norm(grads)
    grads = grads * jnp.where(norm < MAX_GRADIENT_NORM, 1.0, MAX_GRADIENT_NORM / norm)
    # The original keeps momentum in bfloat16, which rounds the coefficient too; its look-ahead
    # and the step itself use exact numbers (spec/mu2net.md §8).
    rounded = jnp.asarray(hp.momentum, jnp.bfloat16).astype(jnp.float32)
    update = grads + rounded * momentum.astype(jnp.float32)
    ahead = jnp.where(hp.nesterov > 0, grads + hp.momentum * update, update)
    return (
        jnp.where(mask, params - rate * ahead, params),
        jnp.where(mask, update.astype(jnp.bfloat16), momentum),
    )


@functools.partial(jax.jit, static_argnames="arch")
def train_steps(
    arch: Architecture,
    frozen: dict[str, Tree],
    state: TrainState,
    masks: dict[str, Any],
    hp: Hyperparameters,
    images: Array,
    labels: Array,
    order: Array,
    draws: Array,
    first_step: Array,
    steps: Array,
) -> TrainState:
    """`steps` steps from `first_step` on; batch i is rows `order[i]` of the data.

    `frozen` holds the leading components that no gradient reaches; `masks` tells, with booleans,
    which of the others are trained. `order` [most steps, batch] and `draws` [most steps, batch,
    DRAWS] may be longer than needed.
    """
    names = arch.component_names
    below, above = names[: len(frozen)], names[len(frozen) :]
    # One flat vector instead of some fifty leaves: the optimiser compiles to one kernel.
    params, unravel = ravel_pytree(state.params)
    momentum, unravel_momentum = ravel_pytree(state.momentum)
    mask, _ = ravel_pytree(
        {
            n: jax.tree.map(lambda p, n=n: jnp.full(p.shape, masks[n]), state.params[n])
            for n in above
        }
    )

    def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        at = first_step + i
        rows = order[at]
        x = augment(draws[at], images[rows], arch.image_size, hp.strengths)
        features = fold(arch, below, frozen, x)

        def loss(params: dict[str, Tree]) -> Array:
            logits = fold(arch, above, params, features)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

        params, momentum = carry
        grads, _ = ravel_pytree(jax.grad(loss)(unravel(params)))
        return _sgd(params, momentum, grads, mask, learning_rate(at, hp), hp)

    params, momentum = jax.lax.fori_loop(0, steps, step, (params, momentum))
    return TrainState(unravel(params), unravel_momentum(momentum))


@functools.partial(jax.jit, static_argnames="arch")
def count_correct(
    arch: Architecture, params: dict[str, Tree], images: Array, labels: Array, count: Array
) -> Array:
    """How many of the first `count` images are classified right."""

    def step(i: Array, correct: Array) -> Array:
        start = i * EVALUATION_ROWS
        x = jax.lax.dynamic_slice_in_dim(images, start, EVALUATION_ROWS)
        y = jax.lax.dynamic_slice_in_dim(labels, start, EVALUATION_ROWS)
        real = start + jnp.arange(EVALUATION_ROWS) < count
        return correct + ((forward(arch, params, x).argmax(-1) == y) & real).sum()

    steps = (count + EVALUATION_ROWS - 1) // EVALUATION_ROWS
    return jax.lax.fori_loop(0, steps, step, jnp.zeros((), jnp.int32))


def accuracy(arch: Architecture, params: Mapping[str, Tree], data: DeviceData) -> float:
    """The share of images classified right."""
    return int(count_correct(arch, dict(params), data.images, data.labels, data.count)) / data.count


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What all children of one generation train and validate on."""

    train: DeviceData
    validation: DeviceData
    order: NDArray[np.int32]  # [steps, batch]: rows of `train`
    steps_per_round: int
    draws: NDArray[np.float32]  # [steps, batch, DRAWS]: randomness of the augmentation


def train(
    arch: Architecture,
    params: Mapping[str, Tree],
    momentum: Mapping[str, Tree | None],
    trainable: frozenset[str],
    hp: Hyperparameters,
    data: TrainingSet,
) -> Iterator[tuple[float, TrainState]]:
    """Trains one child; after each round yields the validation accuracy and the state.

    `params` by component, in forward order; `momentum` holds inherited traces, None starts at 0.
    The components named in `trainable` change, all others come back bit for bit.
    """
    names = arch.component_names
    cut = boundary(arch, trainable)
    frozen = {name: params[name] for name in names[:cut]}
    above = {name: params[name] for name in names[cut:]}
    masks = {name: name in trainable for name in above}
    traces = {name: _trace(params[name], momentum.get(name)) for name in above}
    state = TrainState(above, traces)
    total = len(data.order)
    unused = max(_power_of_two(total), SMALLEST_STEPS) - total
    order = jnp.asarray(np.pad(data.order, ((0, unused), (0, 0))))
    draws = jnp.asarray(np.pad(data.draws, ((0, unused), (0, 0), (0, 0))))
    for first in range(0, total, data.steps_per_round):
        steps = min(data.steps_per_round, total - first)
        state = train_steps(
            arch, frozen, state, masks, hp, data.train.images, data.train.labels,
            order, draws, first, steps,
        )  # fmt: skip
        yield accuracy(arch, {**frozen, **state.params}, data.validation), state


def _trace(params: Tree, inherited: Tree | None) -> Tree:
    if inherited is not None:
        return inherited
    return jax.tree.map(lambda p: np.zeros(p.shape, ml_dtypes.bfloat16), params)
