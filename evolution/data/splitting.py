"""Decides which pictures train, validate and test.

The law: a split of the source is kept. A missing split takes its share of every class. The draw
depends on the seed and the pictures' bytes, so the same pictures from any source are split in the
same way. Pictures that show the same stay on one side. A class first keeps a picture for training,
then one for testing, then one for validation. With several labels a picture, this holds for each
label, and pictures without labels count as a class.
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
NO_LABEL = -1  # the label of pictures without labels
ENOUGH = 1000  # pictures, which measure an accuracy to about two per cent


def share(pictures: int) -> float:
    """The share of all pictures for a new split: a fifth, or less if that exceeds ENOUGH."""
    return max(SMALLEST_SHARE, min(LARGEST_SHARE, ENOUGH / max(1, pictures)))


def drawn(seen: Seen, seed: int) -> list[int]:
    """All rows in the order of a set: by a digest of seed and bytes, not in source order."""
    salt = seed.to_bytes(8)
    keys = [
        (hashlib.sha256(salt + seen.digest(row)).digest(), seen.labels_of(row), row)
        for row in range(len(seen))
    ]
    return sorted(range(len(seen)), key=keys.__getitem__)


def missing(seen: Seen) -> list[int]:
    """The splits to make, of those without pictures."""
    given = set(seen.splits)
    return [split for split in (VALIDATION, TEST) if split not in given]


def split_up(seen: Seen, groups: NDArray[np.int64], order: list[int]) -> NDArray[np.int8]:
    """The split of each row [n]: that of the source, or a new one."""
    splits = np.array(seen.splits, np.int8)
    unsaid, wanted = splits == NO_SPLIT, missing(seen)
    free = unsaid | (splits == TRAIN) if wanted else unsaid
    kept = np.flatnonzero(~free)
    home = dict(zip(groups[kept].tolist(), splits[kept].tolist(), strict=True))
    splits[unsaid] = [home.get(group, TRAIN) for group in groups[unsaid].tolist()]
    rows: dict[int, list[int]] = defaultdict(list)  # of each group to place
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
    """Places groups in the new splits, which get a quota of each label's pictures.

    Rare labels are placed first. If a label would have no picture in a split, it takes one beyond
    the quota of another label, but never so that the split has more than half of the other's
    pictures (and more than one).
    """

    def __init__(self, labels: dict[int, Counter[int]], wanted: list[int], part: float) -> None:
        """`labels` has, for each group in order, the number of its pictures by label."""
        self.placed: dict[int, int] = {}  # group -> split, of groups that do not train
        self._labels, self._wanted = labels, wanted
        members: dict[int, list[int]] = defaultdict(list)
        self._left: Counter[int] = Counter()  # pictures of a label left for training
        for group, found in labels.items():
            self._left.update(found)
            for label in found:
                members[label].append(group)
        self._quota = {label: max(1, round(part * n)) for label, n in self._left.items()}
        self._most = {label: max(1, n // 2) for label, n in self._left.items()}
        self._taken: Counter[tuple[int, int]] = Counter()  # by label and split
        self._kept: set[int] = set()  # groups that must train
        # Groups and splits that would exceed quotas, or (False) the larger limits.
        self._full: set[tuple[int, int, bool]] = set()
        for label in sorted(members, key=lambda label: (self._left[label], label)):
            # Small groups first: a large group, as of frames of one film, could leave nothing for
            # training.
            of = sorted(members[label], key=lambda group: labels[group][label])
            self._choose(label, of, within_all_quotas=True)
            self._choose(label, of, within_all_quotas=False)

    def _choose(self, label: int, groups: list[int], within_all_quotas: bool) -> None:
        for group in groups:
            if group in self.placed:
                continue
            # First a split without the label; testing before validation.
            splits = sorted(self._wanted, key=lambda s: (self._taken[label, s] > 0, -s))
            for split in splits:
                taken = self._taken[label, split]
                own = taken + self._labels[group][label] <= self._quota[label]
                wanted = own and (within_all_quotas or not taken)
                if wanted and self._fits(group, split, within_all_quotas):
                    self._place(group, split)
                    break

    def _fits(self, group: int, split: int, within_all_quotas: bool) -> bool:
        """Whether a group fits: within the limits of all its labels, with training pictures left.

        A group that does not fit never will, since limits only fill up. So a group of many labels
        is checked once for each kind of limit, not for each label.
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
