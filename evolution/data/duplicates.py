"""Which pictures show the same: equal bytes, or the same picture encoded or scaled differently.

The law: two pictures are the same if their difference hashes differ in at most NEAR_BITS of 64 and
no cell of their 8 x 8 thumbnails by more than NEAR_LEVELS; and what is the same as the same is the
same. Each is held against its LOOKED next ones in each of four orders of the hashes, so the work
grows with the number of pictures, not with its square.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evolution.data.staging import Seen

NEAR_BITS = 3  # fewer than the bands: at least one band of two near hashes is equal
BANDS = 4
NEAR_LEVELS = 12
LOOKED = 8
_AT_ONCE = 1 << 15  # thumbnails compared at a time


def groups_of(seen: Seen) -> NDArray[np.int64]:
    """For each picture [n] the number of the first one that shows the same."""
    hashes, thumbs = seen.looks()
    parent = np.arange(len(hashes))
    _join(parent, *_equal(seen))
    turn = np.uint64(64 // BANDS)
    turned = hashes
    for _ in range(BANDS):
        order = np.argsort(turned, kind="stable")
        for step in range(1, min(LOOKED, len(order) - 1) + 1):
            _join(parent, *_near(order[:-step], order[step:], hashes, thumbs))
        turned = (turned << turn) | (turned >> (np.uint64(64) - turn))
    return np.array([_root(parent, row) for row in range(len(parent))], np.int64)


def _equal(seen: Seen) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first: dict[bytes, int] = {}
    firsts = [first.setdefault(seen.digest(row), row) for row in range(len(seen))]
    return np.array(firsts, np.int64), np.arange(len(seen))


def _near(
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    thumbs: NDArray[np.uint8],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Those of the pairs that are near."""
    close = np.bitwise_count(hashes[a] ^ hashes[b]) <= NEAR_BITS
    a, b = a[close], b[close]
    near = np.zeros(len(a), bool)
    for start in range(0, len(a), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        difference = thumbs[a[part]].astype(np.int16) - thumbs[b[part]]
        near[part] = np.abs(difference).max(1, initial=0) <= NEAR_LEVELS
    return a[near], b[near]


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
