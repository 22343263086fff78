"""Tries a version out before it serves: one image goes through its whole path."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from service.compute.paths import LoadedPath, Row
from service.errors import Told
from service.images import Decoded, named
from vit.contract import size_of


class NotFinite(Told):
    """A version whose answers are not finite numbers."""


def row(path: LoadedPath) -> Row:
    """The probe's image on its way through a path."""
    return Row(path, {walk.target: _image(size_of(walk.target)) for walk in path.walks})


def require_finite(path: LoadedPath, logits: NDArray[np.float32]) -> None:
    """Raises NotFinite."""
    if not np.isfinite(logits).all():
        published = path.published
        raise NotFinite(
            f"version {published.version} of task {published.task!r} answered a probe image with "
            "numbers that are not finite; publish one that answers with finite numbers"
        )


@functools.lru_cache(maxsize=8)
def _image(size: int) -> Decoded:
    """Grey above noise, the same at every start."""
    pixels = np.random.default_rng(size).uniform(-1.0, 1.0, (size, size, 3)).astype(np.float32)
    pixels[: size // 2] = 0.0
    return named(pixels)
