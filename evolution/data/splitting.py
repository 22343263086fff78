"""Which pictures train, which select and which test.

The law: a split that the source gives is kept. One that is missing takes its share of every class,
drawn by the seed and the pictures' own bytes, so that the same pictures are split alike however
they came; pictures that show the same stay on one side. A class keeps a picture for training first,
then one for testing, then one for validation.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import numpy as np
from numpy.typing import NDArray

from evolution.data.rows import SPLITS
from evolution.data.staging import NO_SPLIT, Seen

TRAIN, VALIDATION, TEST = range(len(SPLITS))
LARGEST_SHARE, SMALLEST_SHARE = 0.2, 0.05
ENOUGH = 1000  # pictures, to know an accuracy to about two per cent


def share(pictures: int) -> float:
    """Of all pictures, for a split to be made: a fifth, less once that is more than ENOUGH."""
    return max(SMALLEST_SHARE, min(LARGEST_SHARE, ENOUGH / max(1, pictures)))


def drawn(seen: Seen, seed: int) -> list[int]:
    """All rows in the order of a set: by a digest of seed and bytes, not by how they came."""
    salt = seed.to_bytes(8)
    keys = [
        (hashlib.sha256(salt + seen.digest(row)).digest(), seen.labels[row], row)
        for row in range(len(seen))
    ]
    return sorted(range(len(seen)), key=keys.__getitem__)


def missing(seen: Seen) -> list[int]:
    """The splits that are to be made, of those that no picture was given to."""
    given = set(seen.splits)
    return [split for split in (VALIDATION, TEST) if split not in given]


def split_up(seen: Seen, groups: NDArray[np.int64], order: list[int]) -> NDArray[np.int8]:
    """The split of each row [n]: the one given, or one that is made."""
    splits = np.array(seen.splits, np.int8)
    unsaid, wanted = splits == NO_SPLIT, missing(seen)
    free = unsaid | (splits == TRAIN) if wanted else unsaid
    kept = np.flatnonzero(~free)
    home = dict(zip(groups[kept].tolist(), splits[kept].tolist(), strict=True))
    splits[unsaid] = [home.get(group, TRAIN) for group in groups[unsaid].tolist()]
    by_class: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in order:
        if free[row] and int(groups[row]) not in home:
            by_class[seen.labels[row]][int(groups[row])].append(row)
    placed: dict[int, int] = {}  # the split of a group that more than one class has
    for members in by_class.values():
        _part(members, share(len(seen)), wanted, splits, placed)
    return splits


def _part(
    members: dict[int, list[int]],
    part: float,
    wanted: list[int],
    splits: NDArray[np.int8],
    placed: dict[int, int],
) -> None:
    """Gives groups of one class, in order, to the splits that are to be made."""
    count = sum(map(len, members.values()))
    quota = {split: max(1, round(part * count)) for split in wanted}
    taken: Counter[int] = Counter()
    left = count
    # Small groups first: a large one, as of frames of one film, would leave nothing to train on.
    for group, rows in sorted(members.items(), key=lambda item: len(item[1])):
        split = placed.get(group)
        if split is None:
            split = next(
                (
                    s
                    for s in sorted(wanted, key=lambda s: (taken[s] > 0, -s))
                    if taken[s] + len(rows) <= quota[s] and left - len(rows) >= 1
                ),
                TRAIN,
            )
        placed[group] = split
        splits[rows] = split
        if split != TRAIN:
            taken[split] += len(rows)
            left -= len(rows)
