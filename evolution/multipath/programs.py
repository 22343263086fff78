"""The compiled programs that train and evaluate a router and connectors over frozen paths.

The answers of the paths are computed beforehand or, if images are augmented, in each step. A
program depends on the sizes of the answers only. Hyperparameters and the router's rate are traced
values. The optimiser is that of `evolution.training.programs`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from evolution.training.augment import augment
from evolution.training.objectives import Objective, judge
from evolution.training.programs import (
    Descent,
    Hyperparameters,
    TrainState,
    computed,
    descend,
)
from vit.components import Tree
from vit.forward import fold
from vit.mixer import ROUTER, SubPath
from vit.router import mix, path_weights

Answers = tuple[Array, ...]  # of each path for all examples: [n, classes] of the main one, [n, c]


@functools.partial(jax.jit, static_argnames="objective")
def train_on_answers(
    objective: Objective,
    state: TrainState,
    hp: Hyperparameters,
    router_rate: Array,
    answers: Answers,
    labels: Array,
    order: Array,
    first_step: Array,
    steps: Array,
) -> tuple[TrainState, Descent]:
    """`steps` steps on rows `order[i]` [batch] of the answers; else like `train_steps`."""

    def loss(params: dict[str, Tree], i: Array) -> Array:
        logits = mix(params, [each[order[i]] for each in answers], router_rate)
        return objective.loss(logits, labels[order[i]])

    return descend(loss, state, _all(state), hp, first_step, steps, len(order))


@functools.partial(jax.jit, static_argnames=("objective", "paths", "on_bytes", "dtype"))
def train_on_images(
    objective: Objective,
    paths: tuple[SubPath, ...],
    on_bytes: bool,
    dtype: Any,
    frozen: tuple[dict[str, Tree], ...],
    state: TrainState,
    hp: Hyperparameters,
    router_rate: Array,
    images: Array,
    labels: Array,
    order: Array,
    draws: Array,
    first_step: Array,
    steps: Array,
) -> tuple[TrainState, Descent]:
    """The same on rows of uint8 images, augmented by `draws`; `frozen` has each path's parameters.

    Each path sees the same augmented image, resized to its own size.
    """
    sizes = {path.architecture.image_size for path in paths}

    def loss(params: dict[str, Tree], i: Array) -> Array:
        x = images[order[i]]
        sized = {size: augment(draws[i], x, size, hp.strengths, on_bytes) for size in sorted(sizes)}
        answers = [
            fold(
                path.architecture,
                path.component_names,
                computed(own, dtype),
                computed(sized[path.architecture.image_size], dtype),
            ).astype(jnp.float32)
            for path, own in zip(paths, frozen, strict=True)
        ]
        return objective.loss(mix(params, answers, router_rate), labels[order[i]])

    return descend(loss, state, _all(state), hp, first_step, steps, len(order))


def _all(state: TrainState) -> dict[str, Any]:
    return dict.fromkeys(state.params, True)


@jax.jit
def judge_mixed(
    mixer: Mapping[str, Tree], answers: Answers, labels: Array, count: Array
) -> tuple[Array, Array]:
    """The logits of the mixture for the first `count` rows (`objectives.judge`)."""

    def logits(rows: Array) -> Array:
        return mix(mixer, [each[rows] for each in answers])

    return judge(logits, labels, count)


@jax.jit
def mean_weights(router: Tree, main: Array, count: Array) -> Array:
    """The mean weight of each path, [paths], over the first `count` rows of the main answers."""
    weights = path_weights(router, main)
    real = (jnp.arange(len(main)) < count)[:, None]
    return jnp.where(real, weights, 0).sum(axis=0) / count


def mean_weights_of(mixer: Mapping[str, Tree], main: Array, count: int) -> list[float]:
    """The same on the host."""
    return [float(w) for w in mean_weights(mixer[ROUTER], main, jnp.asarray(count))]
