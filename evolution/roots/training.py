"""Trains the shipped root: a network that sees, without a label of a photograph.

It learns two things at once: to predict descriptors of satellite and drawn pictures from crops of
them (masked feature prediction's idea, Wei and others 2022, with descriptors of whole pictures),
and to tell the characters of Omniglot apart. Pictures come in several sizes, so that the root
serves all of them. AdamW and the numbers below are our choice: no published system trains a root.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray

from evolution.roots.loading import SHIPPED_ARCHITECTURE as ARCHITECTURE
from evolution.roots.sources import RootTraining, Sources, Stage
from evolution.roots.views import character_views, picture_views
from model_store.tensors import encode
from vit.components import Tree, init, position_embedding_for
from vit.forward import fold

SAVED_EVERY = 200  # steps


class Progress(NamedTuple):
    """Where training stands after a step."""

    step: int
    losses: NDArray[np.float32]  # of descriptors (1 = no better than their mean), of characters
    components: dict[str, Tree]  # of the root, without head; they hold until the next step


def train_root(sources: Sources, training: RootTraining, state_file: Path) -> Iterator[Progress]:
    """Yields after every step. Stopped, it goes on from `state_file`, and ends with the same root.

    The file is written every SAVED_EVERY steps and at the end of a stage, but not after the last
    step: a caller that was stopped before it wrote the root gets the last steps again.
    """
    params = _new(training, classes=int(sources.labels.max()) + 1)
    before = 0  # steps of the stages that are done
    for stage in training.stages:
        started = (params, _optimizer(stage, training).init(params))
        step, (params, state) = _restored(state_file, before, before + stage.steps, started)
        while step < before + stage.steps:
            batch = _batch(sources, stage, training.seed, step)
            params, state, losses = _update(stage, training, params, state, batch)
            step += 1
            ends = step == before + stage.steps
            if step < training.steps and (ends or step % SAVED_EVERY == 0):
                _save(state_file, step, (params, state))
            yield Progress(step, np.asarray(losses), params["network"])
        before += stage.steps


def _optimizer(stage: Stage, training: RootTraining) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(0.0, stage.learning_rate, stage.warmup, stage.steps)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(rate, b2=0.98, weight_decay=training.weight_decay),
    )


def encode_root(components: dict[str, Tree]) -> bytes:
    """The file of a trained root: bfloat16, without norm and head, which every task replaces."""
    kept = {name: tree for name, tree in components.items() if name not in ("encoder_norm", "head")}
    return encode(jax.tree.map(lambda x: np.asarray(x, ml_dtypes.bfloat16), kept))


def features(components: dict[str, Tree], images: Array) -> Array:
    """What a head reads of images [b, size, size, 3] in [-1, 1]: [b, width]; any size of 8 n."""
    size = images.shape[1]
    arch = replace(ARCHITECTURE, image_size=size)
    position = components["posembed_input"]["pos_embedding"]
    at_size = {"pos_embedding": _resampling(size) @ position}
    names = arch.component_names[:-1]
    return fold(arch, names, {**components, "posembed_input": at_size}, images)


@functools.cache
def _resampling(size: int) -> NDArray[np.float32]:
    """[tokens at `size`, tokens of the root]: what position_embedding_for does, as a matrix."""
    each = np.eye(ARCHITECTURE.tokens, dtype=np.float32)[None]
    arch = replace(ARCHITECTURE, image_size=size)
    return position_embedding_for(arch, {"pos_embedding": each})["pos_embedding"][0]


def _new(training: RootTraining, classes: int) -> dict[str, Any]:
    """Parameters: the network's components, and a dense layer for each thing it learns."""
    rng, width = np.random.default_rng(training.seed), ARCHITECTURE.width

    def dense(count: int) -> Tree:
        kernel = rng.normal(size=(width, count)) / math.sqrt(width)
        return {"kernel": kernel.astype(np.float32), "bias": np.zeros(count, np.float32)}

    return {
        "network": {name: init(ARCHITECTURE, name) for name in ARCHITECTURE.component_names[:-1]},
        "descriptors": dense(training.descriptors),
        "characters": dense(classes),
    }


class _Batch(NamedTuple):
    images: Array  # pictures, then characters
    targets: Array  # of the pictures
    labels: Array  # of the characters


def _batch(sources: Sources, stage: Stage, seed: int, step: int) -> _Batch:
    """The batch of a step; it depends on the step's number and the seed alone."""
    rng = np.random.default_rng((seed, step))
    keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), 2)
    size = int(rng.choice(stage.sizes, p=stage.size_shares))
    satellite = rng.integers(0, len(sources.satellite), stage.satellite)
    drawn = rng.integers(0, len(sources.drawn), stage.drawn)
    characters = rng.integers(0, len(sources.characters), stage.characters)
    pictures = np.concatenate([sources.satellite[satellite], sources.drawn[drawn]])
    images = [
        picture_views(keys[0], pictures, size),
        character_views(keys[1], sources.characters[characters], size),
    ]
    rows = np.concatenate([satellite, len(sources.satellite) + drawn])
    targets, labels = sources.targets[rows], sources.labels[characters]
    return _Batch(jnp.concatenate(images), jnp.asarray(targets), jnp.asarray(labels))


@functools.partial(
    jax.jit, static_argnames=("stage", "training"), donate_argnames=("params", "state")
)
def _update(
    stage: Stage,
    training: RootTraining,
    params: dict[str, Any],
    state: optax.OptState,
    batch: _Batch,
) -> tuple[dict[str, Any], optax.OptState, Array]:
    """One step: parameters, state, and the two losses before it."""

    def loss(params: dict[str, Any]) -> tuple[Array, Array]:
        seen, pictures = features(params["network"], batch.images), len(batch.targets)
        predicted = _dense(params["descriptors"], seen[:pictures])
        logits = _dense(params["characters"], seen[pictures:])
        wanted = jax.nn.one_hot(batch.labels, logits.shape[1])
        wanted = optax.smooth_labels(wanted, training.label_smoothing)
        descriptors = jnp.square(predicted - batch.targets).mean()
        characters = optax.softmax_cross_entropy(logits, wanted).mean()
        total = descriptors + stage.character_weight * characters
        return total, jnp.stack([descriptors, characters])

    grads, losses = jax.grad(loss, has_aux=True)(params)
    updates, state = _optimizer(stage, training).update(grads, state, params)
    return optax.apply_updates(params, updates), state, losses  # pyright: ignore[reportReturnType]


def _dense(layer: Tree, x: Array) -> Array:
    return x @ layer["kernel"] + layer["bias"]


def _save(file: Path, step: int, state: Any) -> None:
    part = file.with_name(f"{file.name}.part")
    with part.open("wb") as opened:
        np.savez(opened, *map(np.asarray, jax.tree.leaves(state)), step=step)
    part.replace(file)


def _restored(file: Path, first: int, last: int, new: Any) -> tuple[int, Any]:
    """The step and state of a file within these steps; of another stage, or without one, `new`."""
    if not file.exists():
        return first, new
    leaves, tree = jax.tree.flatten(new)
    with np.load(file) as saved:
        step = int(saved["step"])
        if not first < step <= last:
            return (last if step > last else first), new
        restored = [jnp.asarray(saved[f"arr_{i}"]) for i in range(len(leaves))]
        return step, jax.tree.unflatten(tree, restored)
