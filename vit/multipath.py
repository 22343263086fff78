"""A multipath model: a router mixes the answers of two or three frozen paths (spec/mu4net.md §3).

The main path answers with logits for the task. Each further path answers with features (what its
head would read) or, where it has a head of its own, with logits; a connector turns them into logits
for the task. Parameter trees are those of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vit.components import LAYER_NORM_EPSILON, Tree
from vit.config import Architecture
from vit.forward import fold

ROUTER = "multipath_router"
_CONNECTOR = "head_adapter_path_"


def connector_name(path: int) -> str:
    """The component that turns the answer of a further path, 1 or 2, into logits."""
    return f"{_CONNECTOR}{path}"


def mixer_names(num_paths: int) -> tuple[str, ...]:
    """The components that a multipath model has beside its paths."""
    return (ROUTER, *(connector_name(i) for i in range(1, num_paths)))


@dataclass(frozen=True, slots=True)
class SubPath:
    """One path of a multipath model: its network, and whether that ends in its head."""

    architecture: Architecture
    has_head: bool

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of its components, in the order of the forward pass."""
        names = self.architecture.component_names
        return names if self.has_head else names[:-1]

    @property
    def outputs(self) -> int:
        """How many numbers it answers with: logits, or features."""
        arch = self.architecture
        return arch.num_classes if self.has_head else arch.features


def subpath_component(path: int, name: str) -> str:
    """What a multipath model calls the component `name` of one of its paths."""
    return f"path_{path}/{name}"


def init_router(num_classes: int, num_paths: int, main_weight: float) -> Tree:
    """A router that gives every image the same weights: `main_weight` to the main path.

    The others share the rest. Raises ValueError unless 0 < main_weight < 1 and there are two paths.
    """
    if not 0 < main_weight < 1 or num_paths < 2:
        raise ValueError(
            f"a router of {num_paths} paths with {main_weight} for the main one: expected at least "
            "2 paths and a weight between 0 and 1"
        )
    bias = np.zeros(num_paths, np.float32)
    bias[0] = math.log(main_weight / (1 - main_weight) * (num_paths - 1))
    return {
        "LayerNorm_0": {
            "scale": np.ones(num_classes, np.float32),
            "bias": np.zeros(num_classes, np.float32),
        },
        "Dense_0": {"kernel": np.zeros((num_classes, num_paths), np.float32), "bias": bias},
    }


def init_connector(inputs: int, num_classes: int) -> Tree:
    """A connector whose logits are 0: at first a further path changes no image's class."""
    kernel = np.zeros((inputs, num_classes), np.float32)
    return {"Dense_0": {"kernel": kernel, "bias": np.zeros(num_classes, np.float32)}}


def path_weights(router: Tree, main_logits: Array) -> Array:
    """The weight of each path for each image, [b, paths], from the main path's logits [b, c]."""
    mean = main_logits.mean(axis=-1, keepdims=True)
    variance = jnp.square(main_logits - mean).mean(axis=-1, keepdims=True)
    normed = (main_logits - mean) * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
    normed = normed * router["LayerNorm_0"]["scale"] + router["LayerNorm_0"]["bias"]
    return jax.nn.softmax(normed @ router["Dense_0"]["kernel"] + router["Dense_0"]["bias"])


def mix(
    mixer: Mapping[str, Tree], answers: Sequence[Array], router_rate: float | Array = 1.0
) -> Array:
    """Logits [b, c] from what the paths answer: [b, c] of the main one, [b, features] each.

    The gradient is the published one: the router's is that of the mixture times `router_rate`, the
    connectors' is as if each path had weight 1.
    """
    weights = path_weights(mixer[ROUTER], answers[0])
    fixed = jax.lax.stop_gradient(weights)
    weights = fixed + router_rate * (weights - fixed)
    logits = [answers[0]]
    for i, answer in enumerate(answers[1:], 1):
        dense = mixer[connector_name(i)]["Dense_0"]
        logits.append(answer @ dense["kernel"] + dense["bias"])
    each = jnp.stack(logits, axis=-1)  # [b, c, paths]
    mixed = (weights[:, None, :] * jax.lax.stop_gradient(each)).sum(axis=-1)
    total = each.sum(axis=-1)
    return mixed + (total - jax.lax.stop_gradient(total))


def multipath_forward(
    paths: Sequence[SubPath], params: Mapping[str, Tree], images: Mapping[int, Array]
) -> Array:
    """Logits [b, classes] of the images in [-1, 1], which are given at each image size needed."""
    answers = []
    for i, path in enumerate(paths):
        own = {name: params[subpath_component(i, name)] for name in path.component_names}
        x = images[path.architecture.image_size]
        answers.append(fold(path.architecture, path.component_names, own, x))
    return mix({name: params[name] for name in mixer_names(len(paths))}, answers)
