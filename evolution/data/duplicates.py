"""Finds pictures that show the same: equal bytes, or another encoding or scale.

The law: two pictures are the same if three conditions hold. Their difference hashes differ in at
most NEAR_BITS of 64. No cell of their 8 x 8 thumbnails differs by more than NEAR_LEVELS. The root
mean square of the thumbnails' difference is at most NEAR_SHARE of their contrast, or NOISE. So two
almost uniform pictures, as of open sea, are not the same. If A and B are the same, and B and C, so
are A and C. Each picture is compared with its LOOKED next ones in each of ORDERS orders of the
hashes, so the work grows with the number of pictures, not with its square.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evolution.data.staging import Seen

NEAR_BITS = 12
NEAR_LEVELS = 12  # of 255
NEAR_SHARE = 0.6
NOISE = 0.4  # levels, from rounding
LOOKED = 8
ORDERS = 16  # each begins with another bit of the hash; the bits before it may differ
_AT_ONCE = 1 << 15  # thumbnails compared at a time


def groups_of(seen: Seen) -> NDArray[np.int64]:
    """For each picture [n] the number of the first one that shows the same."""
    hashes, thumbs = seen.looks()
    parent, first = np.arange(len(hashes)), _first_of_equal(seen)
    _join(parent, first, parent.copy())
    rows = np.unique(first)  # equal ones need not be compared again
    turn = np.uint64(64 // ORDERS)
    turned = hashes[rows]
    for _ in range(ORDERS):
        order = rows[np.argsort(turned, kind="stable")]
        for step in range(1, min(LOOKED, len(order) - 1) + 1):
            _join(parent, *_near(order[:-step], order[step:], hashes, thumbs))
        turned = (turned << turn) | (turned >> (np.uint64(64) - turn))
    return np.array([_root(parent, row) for row in range(len(parent))], np.int64)


def _first_of_equal(seen: Seen) -> NDArray[np.int64]:
    """For each picture [n] the number of the first one with its bytes."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(seen.digest(row), row) for row in range(len(seen))], np.int64)


def _near(
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    thumbs: NDArray[np.uint8],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs that are near each other."""
    close = np.bitwise_count(hashes[a] ^ hashes[b]) <= NEAR_BITS
    a, b = a[close], b[close]
    near = np.zeros(len(a), bool)
    for start in range(0, len(a), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        near[part] = _alike(thumbs[a[part]], thumbs[b[part]])
    return a[near], b[near]


def _alike(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether thumbnails [n, cells * 3] are near others."""
    shape = (len(one), -1, 3)
    a, b = one.reshape(shape).astype(np.float32), other.reshape(shape).astype(np.float32)
    level = np.abs(a - b).max((1, 2), initial=0) <= NEAR_LEVELS
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    contrast = np.maximum((a * a).mean((1, 2)), (b * b).mean((1, 2)))
    difference = ((a - b) ** 2).mean((1, 2))
    return level & (difference <= np.maximum(NEAR_SHARE**2 * contrast, NOISE**2))


def _join(parent: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
    for one, other in zip(a.tolist(), b.tolist(), strict=True):
        one, other = _root(parent, one), _root(parent, other)
        if one != other:
            parent[max(one, other)] = min(one, other)


def _root(parent: NDArray[np.int64], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = int(parent[row])
    return row
