"""Where a system starts: random components, or the small trained root that ships.

The shipped root is a Ti/8 with 3 blocks at 32 px, trained to tell the 1,623 characters of Omniglot
apart (MIT licence; `python -m evolution root` makes it anew). It has never seen a numeral of
CMATERdb. AdamW and label smoothing here are choices of ours: no published system trains a root.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray

from evolution.augment import DRAWS, Strengths, augment
from evolution.training import epochs
from model_store.tensors import decode, encode
from vit import Architecture, forward, init
from vit.components import Tree

SHIPPED = Path(__file__).with_name("datasets") / "omniglot_ti8.safetensors"
SHIPPED_ARCHITECTURE = Architecture.named(
    "Ti", patch_size=8, image_size=32, num_layers=3, num_classes=1
)
STRENGTHS = Strengths(1.0, 0.6, 0.7, 0.0, 0.2, 0.2, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class RootTraining:
    """How the shipped root is trained; about 40 minutes on 2 cores."""

    epochs: int = 10  # passes over both drawings of every character
    batch_size: int = 256
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    warmup: float = 0.1  # share of the steps
    seed: int = 0

    def steps(self, images: int) -> int:
        """Optimizer steps, in whole chunks of a tenth of a pass."""
        chunk = self.chunk(images)
        return self.epochs * images // self.batch_size // chunk * chunk

    def chunk(self, images: int) -> int:
        """Steps of one call of the compiled program."""
        return math.ceil(images / self.batch_size / 10)


def random_root(arch: Architecture) -> dict[str, Tree]:
    """Fresh components of a root, by name."""
    return {name: init(arch, name) for name in arch.component_names}


def shipped_root() -> tuple[Architecture, dict[str, Tree]]:
    """The shipped root: its blocks and all below them, and a fresh norm and head."""
    arch = SHIPPED_ARCHITECTURE
    stored: Any = decode(SHIPPED.read_bytes())  # a tree of components, by name
    trained = {
        name: jax.tree.map(lambda x: np.asarray(x, np.float32), tree)
        for name, tree in stored.items()
    }
    return arch, {**random_root(arch), **trained}


@functools.partial(jax.jit, static_argnames=("arch", "optimizer", "smoothing"))
def _root_steps(
    arch: Architecture,
    optimizer: optax.GradientTransformation,
    smoothing: float,
    params: dict[str, Tree],
    state: optax.OptState,
    images: Array,
    labels: Array,
    order: Array,
    draws: Array,
) -> tuple[dict[str, Tree], optax.OptState, Array]:
    def step(carry, at):
        params, state = carry
        rows, draws = at
        x = augment(draws, images[rows], arch.image_size, STRENGTHS)
        wanted = optax.smooth_labels(jax.nn.one_hot(labels[rows], arch.num_classes), smoothing)

        def loss(params: dict[str, Tree]) -> Array:
            return optax.softmax_cross_entropy(forward(arch, params, x), wanted).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), value

    (params, state), losses = jax.lax.scan(step, (params, state), (order, draws))
    return params, state, losses.mean()


def train_root(
    images: NDArray[np.uint8], labels: NDArray[np.int32], training: RootTraining
) -> Iterator[tuple[int, float, dict[str, Tree]]]:
    """Yields (step, mean loss, components) some ten times per pass over the images.

    images uint8 [n, 32, 32, 1], labels [n]. The last components yielded are the trained ones.
    """
    arch = replace(SHIPPED_ARCHITECTURE, num_classes=int(labels.max()) + 1)
    steps, chunk = training.steps(len(labels)), training.chunk(len(labels))
    rate = optax.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, math.ceil(training.warmup * steps), steps
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=training.weight_decay)
    )
    params = random_root(arch)
    state = optimizer.init(params)
    rng = np.random.default_rng(training.seed)
    order = epochs(rng, len(labels), training.batch_size, steps)
    on_device, on_device_labels = jnp.asarray(images), jnp.asarray(labels)
    for at in range(0, steps, chunk):
        params, state, loss = _root_steps(
            arch, optimizer, training.label_smoothing, params, state,
            on_device, on_device_labels, jnp.asarray(order[at : at + chunk]),
            rng.random((chunk, training.batch_size, DRAWS), np.float32),
        )  # fmt: skip
        yield at + chunk, float(loss), params


def encode_root(params: dict[str, Tree]) -> bytes:
    """The file of a trained root: bfloat16, without norm and head, which every task makes anew."""
    kept = {name: tree for name, tree in params.items() if name not in ("encoder_norm", "head")}
    return encode(jax.tree.map(lambda x: np.asarray(x, ml_dtypes.bfloat16), kept))
