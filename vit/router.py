"""The router of a multipath model mixes what the paths answer (evolution/SYSTEMS.md, Mixing)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from vit.forward import fold
from vit.mixer import ROUTER, SubPath, connector_name, mixer_names, subpath_component
from vit.parameters import LAYER_NORM_EPSILON, Tree


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
