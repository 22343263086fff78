"""A path's forward pass: a fold over its components."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jax import Array

from vit.components import Tree, apply
from vit.config import Architecture


def fold(arch: Architecture, names: Iterable[str], params: Mapping[str, Tree], x: Array) -> Array:
    """Runs the named components one after the other: a whole path, its prefix or its suffix."""
    for name in names:
        x = apply(arch, name, params[name], x)
    return x


def forward(arch: Architecture, params: Mapping[str, Tree], images: Array) -> Array:
    """Logits [b, classes] of images [b, image_size, image_size, 3] scaled to [-1, 1]."""
    return fold(arch, arch.component_names, params, images)
