"""Resamples position embeddings as PyTorch does, for networks that do so for every picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# PyTorch's cubic coefficient, without and with antialias.
SHARPNESS, SHARPNESS_ANTIALIASED = -0.75, -0.5


def resampled(grid: NDArray[np.float32], side: int, *, antialias: bool) -> NDArray[np.float32]:
    """[old, old, width] -> [side, side, width], bicubic, corners not aligned."""
    weights = bicubic(len(grid), side, antialias=antialias)
    return np.einsum("ia,jb,abw->ijw", weights, weights, grid, optimize=True).astype(np.float32)


def bicubic(old: int, new: int, *, antialias: bool) -> NDArray[np.float64]:
    """[new, old]: the weight of each old value in each new one."""
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale - 0.5
    if antialias:
        stretch = max(scale, 1.0)
        found = _cubic((np.arange(old) - centres) / stretch, SHARPNESS_ANTIALIASED)
        return found / found.sum(1, keepdims=True)
    found = np.zeros((new, old))
    first = np.floor(centres).astype(int) - 1
    for tap in range(4):  # the border value is repeated
        weight = _cubic(first + tap - centres, SHARPNESS)
        np.add.at(found, (np.arange(new)[:, None], (first + tap).clip(0, old - 1)), weight)
    return found


def _cubic(x: NDArray[Any], a: float) -> NDArray[np.float64]:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
