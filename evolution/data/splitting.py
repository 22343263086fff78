"""Which pictures train, which select and which test.

The law: a split that the source gives is kept. One that is missing takes its share of every class,
drawn by the seed and the pictures' own bytes, so that the same pictures are split alike however
they came; pictures that show the same stay on one side. A class keeps a picture for training first,
then one for testing, then one for validation. Where a picture has several labels, each of them is
treated so, and pictures without any are like those of a class.
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
NO_LABEL = -1  # what stands for it among labels
ENOUGH = 1000  # pictures, to know an accuracy to about two per cent


def share(pictures: int) -> float:
    """Of all pictures, for a split to be made: a fifth, less once that is more than ENOUGH."""
    return max(SMALLEST_SHARE, min(LARGEST_SHARE, ENOUGH / max(1, pictures)))


def drawn(seen: Seen, seed: int) -> list[int]:
    """All rows in the order of a set: by a digest of seed and bytes, not by how they came."""
    salt = seed.to_bytes(8)
    keys = [
        (hashlib.sha256(salt + seen.digest(row)).digest(), seen.labels_of(row), row)
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
    rows: dict[int, list[int]] = defaultdict(list)  # of each group that is to be placed
    for row in order:
        if free[row] and int(groups[row]) not in home:
            rows[int(groups[row])].append(row)
    labels = {
        group: Counter(label for row in of for label in seen.labels_of(row) or (NO_LABEL,))
        for group, of in rows.items()
    }
    for group, split in _Parting(labels, wanted, share(len(seen))).placed.items():
        splits[rows[group]] = split
    return splits


class _Parting:
    """Gives groups to the splits that are to be made: a quota of each label's pictures to each.

    Rare labels choose first. Where a label would have no picture in a split, it takes one that is
    beyond the quota of another label, but never so that the split has more than half of the other's
    pictures (and more than one).
    """

    def __init__(self, labels: dict[int, Counter[int]], wanted: list[int], part: float) -> None:
        """`labels` tells of each group, in order, how many of its pictures have which label."""
        self.placed: dict[int, int] = {}  # groups that do not train
        self._labels, self._wanted = labels, wanted
        members: dict[int, list[int]] = defaultdict(list)
        self._left: Counter[int] = Counter()  # pictures of a label that still may train
        for group, found in labels.items():
            self._left.update(found)
            for label in found:
                members[label].append(group)
        self._quota = {label: max(1, round(part * n)) for label, n in self._left.items()}
        self._most = {label: max(1, n // 2) for label, n in self._left.items()}
        self._taken: Counter[tuple[int, int]] = Counter()  # by label and split
        self._kept: set[int] = set()  # groups that have to train
        # Groups and splits whose quotas they would break, or (False) more than these.
        self._full: set[tuple[int, int, bool]] = set()
        for label in sorted(members, key=lambda label: (self._left[label], label)):
            # Small groups first: a large one, as of frames of one film, would leave nothing to
            # train on.
            of = sorted(members[label], key=lambda group: labels[group][label])
            self._choose(label, of, within_all_quotas=True)
            self._choose(label, of, within_all_quotas=False)

    def _choose(self, label: int, groups: list[int], within_all_quotas: bool) -> None:
        for group in groups:
            if group in self.placed:
                continue
            # A split that has none of the label first; of such, testing before validation.
            splits = sorted(self._wanted, key=lambda s: (self._taken[label, s] > 0, -s))
            for split in splits:
                taken = self._taken[label, split]
                own = taken + self._labels[group][label] <= self._quota[label]
                wanted = own and (within_all_quotas or not taken)
                if wanted and self._fits(group, split, within_all_quotas):
                    self._place(group, split)
                    break

    def _fits(self, group: int, split: int, within_all_quotas: bool) -> bool:
        """Within the limits of all its labels, and with something left to train on of each.

        What does not fit never will: limits only fill, and less and less is left. So a group of
        many labels is looked through once for each kind of limit, not for each of them.
        """
        found, place = self._labels[group], (group, split, within_all_quotas)
        if group in self._kept or place in self._full:
            return False
        if not all(self._left[label] - n >= 1 for label, n in found.items()):
            self._kept.add(group)
            return False
        limits = self._quota if within_all_quotas else self._most
        fits = all(self._taken[label, split] + n <= limits[label] for label, n in found.items())
        if not fits:
            self._full.add(place)
        return fits

    def _place(self, group: int, split: int) -> None:
        self.placed[group] = split
        for label, n in self._labels[group].items():
            self._taken[label, split] += n
            self._left[label] -= n
