"""The compiled programs: train the unlocked components of a path, evaluate it, run its prefix.

A call of `train_steps` is one loop on the device over data that is there already. A compiled
program depends only on the architecture, the batch size, the depth of the frozen prefix and the
shape of the data. Callers pad the data, so that most tasks share one shape. Hyperparameters, the
number of steps and the choice of trainable components above the prefix are traced values. So
children of one shape share programs. Numbers of the optimiser: SYSTEMS.md, Optimiser.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from evolution.experiments.settings import SCHEDULES
from evolution.training import objectives
from evolution.training.augment import Strengths, augment
from evolution.training.objectives import Objective
from vit import Architecture, kind_of, shapes
from vit.components import Tree
from vit.contract import Contract
from vit.forward import fold, forward

MAX_GRADIENT_NORM = 1.0
# Sound training stays far below. A step moves all weights together by the learning rate, which is
# at most 1 in any search space; with momentum by a hundred times that.
LARGEST_WEIGHT = 1e6
# Arrays of this many numbers or more are updated by themselves. All others are updated as one flat
# vector, so that the optimiser of some fifty arrays compiles to one kernel. To copy a large array
# into that vector and out of it, in each step, would cost more than a kernel of its own does.
LARGE_ARRAY = 1 << 18


class Hyperparameters(NamedTuple):
    """The traced hyperparameters of one child; scalars."""

    learning_rate: Any
    warmup_steps: Any
    warmup_start: Any  # the first learning rate, as a share of the peak
    schedule_steps: Any  # steps until the curve reaches 0
    constant: Any  # 1: half the learning rate throughout
    linear: Any  # 1: after the warm-up a line down to `warmup_start`, not a cosine to 0
    momentum: Any
    nesterov: Any  # 0 or 1
    strengths: Strengths

    @classmethod
    def of(
        cls, hp: Mapping[str, Any], steps: int, rounds: int, warmup_start: float
    ) -> Hyperparameters:
        """From a path's hyperparameters and the length of its training."""
        schedule = hp["opt_lr_schedule"]
        if schedule not in SCHEDULES:
            raise ValueError(f"opt_lr_schedule {schedule!r}: expected one of {SCHEDULES}")
        curve = steps // rounds if schedule == "restarts" else steps
        return cls(
            learning_rate=float(hp["opt_lr"]),
            warmup_steps=int(hp["opt_lr_warmup_ratio"] * curve),
            warmup_start=warmup_start,
            schedule_steps=curve,
            constant=float(schedule == "constant"),
            linear=float(schedule == "linear"),
            momentum=float(hp["opt_momentum"] or 0.0),  # None: plain SGD
            nesterov=float(hp["opt_nesterov"]),
            strengths=Strengths.of(hp),
        )


def shuffled(rng: np.random.Generator, count: int, batch: int) -> Iterator[NDArray[np.int32]]:
    """Batches of indices from an endless stream of reshuffled passes over `count` examples."""
    left = np.zeros(0, np.int32)
    while True:
        while len(left) < batch:
            left = np.concatenate([left, rng.permutation(count).astype(np.int32)])
        yield left[:batch]
        left = left[batch:]


def epochs(rng: np.random.Generator, count: int, batch: int, steps: int) -> NDArray[np.int32]:
    """The first `steps` of them, [steps, batch]."""
    return np.stack(list(itertools.islice(shuffled(rng, count, batch), steps)))


def boundary(arch: Architecture, trainable: frozenset[str]) -> int:
    """How many leading components are frozen; only some depths have programs of their own.

    The three components before the first block count as one, so do an adapter and its block, and
    norm and head.
    """
    names = arch.component_names
    lowest = min((i for i, name in enumerate(names) if name in trainable), default=len(names))
    if lowest < names.index("posembed_input") + 1:
        return 0
    lowest = min(lowest, names.index("encoder_norm"))
    return lowest - (kind_of(names[lowest - 1]) == "residual_adapter")


class TrainState(NamedTuple):
    """Parameters and momentum above the frozen prefix, by component; training changes them."""

    params: dict[str, Tree]
    momentum: dict[str, Tree]  # bfloat16


def learning_rate(step: Array, hp: Hyperparameters) -> Array:
    """The learning rate of one step, counted from 0 (SYSTEMS.md, Optimiser)."""
    at = step % hp.schedule_steps
    rising = hp.warmup_start + (1 - hp.warmup_start) * at / jnp.maximum(hp.warmup_steps, 1)
    remaining = jnp.maximum(hp.schedule_steps - hp.warmup_steps, 1)
    progress = (at - hp.warmup_steps) / remaining
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    line = 1 - (1 - hp.warmup_start) * progress
    falling = jnp.where(hp.linear > 0, line, cosine)
    curve = jnp.where(at < hp.warmup_steps, rising, falling)
    return hp.learning_rate * jnp.where(hp.constant > 0, 0.5, curve)


Packed = tuple[Array, ...]  # a tree's small arrays as one flat vector, then each large one


def _packed(tree: Any, large: Sequence[bool]) -> tuple[Packed, Callable[[Packed], Any]]:
    """The arrays of a tree as `Packed`, and the way back; `large` tells which arrays are large."""
    leaves, structure = jax.tree.flatten(tree)
    vector, unravel = ravel_pytree([x for x, apart in zip(leaves, large, strict=True) if not apart])

    def unpacked(arrays: Packed) -> Any:
        together, rest = iter(unravel(arrays[0])), iter(arrays[1:])
        return jax.tree.unflatten(structure, [next(rest if x else together) for x in large])

    return (vector, *itertools.compress(leaves, large)), unpacked


def _sgd(
    params: Packed, momentum: Packed, grads: Packed, masks: Packed, rate: Array, hp: Hyperparameters
) -> tuple[Packed, Packed]:
    """One step of clipped SGD; where a mask is False, nothing changes a bit.

    The mask of a vector has its shape, that of a large array is one boolean.
    """
    grads = jax.tree.map(lambda g, mask: jnp.where(mask, g, 0), grads, masks)
    norm = optax.tree.norm(grads)
    scale = jnp.where(norm < MAX_GRADIENT_NORM, 1.0, MAX_GRADIENT_NORM / norm)
    # The original keeps momentum in bfloat16, which rounds the coefficient too; its look-ahead
    # and the step itself use exact numbers (SYSTEMS.md, Optimiser).
    rounded = jnp.asarray(hp.momentum, jnp.bfloat16).astype(jnp.float32)

    def updated(p: Array, m: Array, g: Array, mask: Array) -> tuple[Array, Array]:
        g = g * scale
        update = g + rounded * m.astype(jnp.float32)
        ahead = jnp.where(hp.nesterov > 0, g + hp.momentum * update, update)
        return (
            jnp.where(mask, p - rate * ahead, p),
            jnp.where(mask, update.astype(jnp.bfloat16), m),
        )

    pairs = [updated(*each) for each in zip(params, momentum, grads, masks, strict=True)]
    return tuple(p for p, _ in pairs), tuple(m for _, m in pairs)


def compute_dtype(bfloat16: bool) -> Any:
    """The type of activations in training: float32, or bfloat16 if wanted, on an accelerator.

    Parameters, softmax and norms are float32 in both (SYSTEMS.md, Network).
    """
    return jnp.bfloat16 if bfloat16 and jax.default_backend() != "cpu" else jnp.float32


def computed(tree: Tree, dtype: Any) -> Tree:
    """The arrays in the type that training computes in."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


class Descent(NamedTuple):
    """The record of one call's steps."""

    sound: Array  # whether every loss was a finite number, and no weight is beyond LARGEST_WEIGHT
    losses: Array  # [most steps]: of each step that was taken, 0 behind them
    rates: Array  # [most steps]: learning rates, as the losses


def descend(
    loss: Callable[[dict[str, Tree], Array], Array],
    state: TrainState,
    masks: Mapping[str, Any],
    hp: Hyperparameters,
    first_step: Array,
    steps: Array,
    most: int,
) -> tuple[TrainState, Descent]:
    """`steps` steps of descent on `loss`, a function of the parameters and the step's index.

    The first is number `first_step` of the child's training. `masks` has a boolean for each
    component: whether it is trained. The program is compiled for at most `most` steps.
    """
    large = [x.size >= LARGE_ARRAY for x in jax.tree.leaves(state.params)]
    params, unpacked = _packed(state.params, large)
    momentum, unpacked_momentum = _packed(state.momentum, large)
    mask, _ = _packed(
        {
            n: jax.tree.map(
                lambda p, n=n: jnp.full(() if p.size >= LARGE_ARRAY else p.shape, masks[n]), tree
            )
            for n, tree in state.params.items()
        },
        large,
    )

    def step(i: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        params, momentum, losses, rates = carry
        value, tree = jax.value_and_grad(loss)(unpacked(params), i)
        grads, _ = _packed(tree, large)
        rate = learning_rate(first_step + i, hp)
        params, momentum = _sgd(params, momentum, grads, mask, rate, hp)
        return params, momentum, losses.at[i].set(value), rates.at[i].set(rate)

    start = (params, momentum, *(jnp.zeros(most, jnp.float32) for _ in range(2)))
    params, momentum, losses, rates = jax.lax.fori_loop(0, steps, step, start)
    sound = jnp.isfinite(losses).all()
    for array in params:  # a NaN is not within the bound either
        sound &= (jnp.abs(array) <= LARGEST_WEIGHT).all()
    state = TrainState(unpacked(params), unpacked_momentum(momentum))
    return state, Descent(sound, losses, rates)


@functools.partial(
    jax.jit, static_argnames=("objective", "arch", "prefix", "augmentation", "dtype", "contract")
)
def train_steps(
    objective: Objective,
    arch: Architecture,
    prefix: int,
    augmentation: str,
    dtype: Any,
    frozen: dict[str, Tree],
    state: TrainState,
    masks: dict[str, Any],
    hp: Hyperparameters,
    inputs: Array,
    labels: Array,
    order: Array,
    draws: Array,
    first_step: Array,
    steps: Array,
    contract: Contract | None = None,
) -> tuple[TrainState, Descent]:
    """`steps` steps, the first of which is number `first_step` of the child's training.

    The first `prefix` components are frozen and no gradient reaches them. `masks` has a boolean for
    each of the others: whether it is trained. Batch i is rows `order[i]` of `inputs`: uint8 images
    to augment (`augmentation` "scaled" or "bytes"), or with "none" the input of the component after
    the prefix. `order` [most steps, batch] and `draws` [most steps, batch, DRAWS] may be longer
    than needed. Activations are of type `dtype` (`compute_dtype`). A `contract` scales images to
    another range than [-1, 1].
    """
    below, above = arch.component_names[:prefix], arch.component_names[prefix:]

    def loss(params: dict[str, Tree], i: Array) -> Array:
        x = inputs[order[i]]
        if augmentation != "none":
            x = augment(draws[i], x, arch.image_size, hp.strengths, augmentation == "bytes")
            x = x if contract is None else contract.scaled((x + 1) * np.float32(127.5))
            x = fold(arch, below, computed(frozen, dtype), computed(x, dtype))
        logits = fold(arch, above, computed(params, dtype), computed(x, dtype)).astype(jnp.float32)
        return objective.loss(logits, labels[order[i]])

    return descend(loss, state, masks, hp, first_step, steps, len(order))


@functools.partial(jax.jit, static_argnames=("arch", "prefix"))
def run_prefix(arch: Architecture, prefix: int, params: dict[str, Tree], inputs: Array) -> Array:
    """The output of the first `prefix` components for images [b, size, size, 3]."""
    return fold(arch, arch.component_names[:prefix], params, inputs)


@functools.partial(jax.jit, static_argnames=("arch", "prefix"))
def judge(
    arch: Architecture,
    prefix: int,
    params: dict[str, Tree],
    inputs: Array,
    labels: Array,
    count: Array,
) -> tuple[Array, Array]:
    """The logits of the components after the prefix for the first `count` rows.

    Also whether all of them are finite (`objectives.judge`).
    """
    return objectives.judge(
        lambda rows: fold(arch, arch.component_names[prefix:], params, inputs[rows]), labels, count
    )


@functools.cache
def forward_flops(arch: Architecture) -> float:
    """Floating-point operations of a forward pass of one image, by XLA's own count.

    Counted on the unoptimised program, so that it is the same on every machine
    (SYSTEMS.md, Score).
    """
    return _counted(arch, arch.component_names, functools.partial(forward, arch))


def prefix_flops(arch: Architecture, prefix: int) -> float:
    """Those of its first `prefix` components; without the head's, which `prefix` leaves out."""
    return _prefix_flops(replace(arch, num_classes=1), prefix)  # counted once for all heads


@functools.cache
def _prefix_flops(arch: Architecture, prefix: int) -> float:
    names = arch.component_names[:prefix]
    return _counted(arch, names, functools.partial(fold, arch, names)) if prefix else 0.0


def _counted(arch: Architecture, names: Sequence[str], program: Callable[..., Array]) -> float:
    params = {name: shapes(arch, name) for name in names}
    image = jax.ShapeDtypeStruct((1, arch.image_size, arch.image_size, 3), jnp.float32)
    costs: Any = jax.jit(program).lower(params, image).cost_analysis()
    return float(costs["flops"])


def training_flops(arch: Architecture, prefix: int) -> float:
    """Those of a training step for one image where it enters the component after the prefix.

    The backward pass counts as two forward ones.
    """
    return 3 * (forward_flops(arch) - prefix_flops(arch, prefix))


def compiled_programs() -> int:
    """How many programs this process has compiled for training and evaluation."""
    programs: tuple[Any, ...] = (train_steps, run_prefix, judge)
    return sum(program._cache_size() for program in programs)
