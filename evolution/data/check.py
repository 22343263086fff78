"""Describes a set, finds its faults, and decides which are too dangerous to train on.

A finding is dangerous if an accuracy measured on the set would be misleading, or if training could
not work. Each finding has a name, by which a user can allow it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.data.confidence import interval
from evolution.data.errors import counted, listed
from evolution.data.rows import SPLITS
from evolution.data.splitting import TEST, TRAIN
from evolution.data.staging import Seen

MAX_BAD = 0.01  # of all pictures
MAX_LEAK = 0.01  # of the validation or test pictures
MAX_CONSTANT = 0.05
MAX_CLASSES = 10_000
ACCURACY = 0.9  # the example for which intervals are given
KIND = {"train": "training"}  # of a picture, where it is not called as its split


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a user should know."""

    name: str
    message: str
    dangerous: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a check, as it is kept in the card."""

    pictures: int
    classes: int
    counts: Mapping[str, list[int]]  # split -> pictures of each class, or with each label
    sizes: Mapping[str, Any]  # smallest, median, largest as [width, height]; how many differ
    modes: Mapping[str, int]  # format and mode, as `JPEG RGB`
    alpha: int
    turned: int
    constant: int
    bad: int
    bad_names: list[str]  # the first, with their reasons
    duplicates: Mapping[str, int]  # pictures that repeat another: within, across, in other classes
    # Quality on the test split of one fixed answer: the accuracy of the most common class; with
    # several labels the mean average precision of equal probabilities.
    majority: float
    # Split -> the interval of an accuracy of ACCURACY; empty with several labels.
    intervals: Mapping[str, list[float]]
    findings: list[Finding] = field(default_factory=list)
    multi_label: bool = False
    in_splits: Mapping[str, int] = field(default_factory=dict[str, int])  # with several labels
    unlabelled: Mapping[str, int] = field(default_factory=dict[str, int])  # split -> without any

    def in_split(self, split: str) -> int:
        """The number of pictures in it."""
        return self.in_splits.get(split, sum(self.counts[split]))

    @property
    def dangers(self) -> list[Finding]:
        """The findings that stop a command."""
        return [finding for finding in self.findings if finding.dangerous]

    def to_json(self) -> dict[str, Any]:
        """For the card."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Report:
        """Inverse of `to_json`."""
        return cls(**{**found, "findings": [Finding(**each) for each in found["findings"]]})


def check(
    seen: Seen,
    splits: NDArray[np.int8],
    groups: NDArray[np.int64],
    classes: tuple[str, ...],
    multi_label: bool = False,
    max_bad: float = MAX_BAD,
) -> Report:
    """The report of a set; `splits` and `groups` [n] come from their modules."""
    rows, given = seen.given()
    counts = {
        split: np.bincount(given[splits[rows] == i], minlength=len(classes)).tolist()
        for i, split in enumerate(SPLITS)
    }
    in_splits = {split: int(np.count_nonzero(splits == i)) for i, split in enumerate(SPLITS)}
    repeated = _repeated(seen, splits, groups)
    bad = [f"{skipped.path}: {skipped.reason}" for skipped in seen.skipped]
    report = Report(
        pictures=len(seen),
        classes=len(classes),
        counts=counts,
        sizes=_sizes(seen.shapes),
        modes=dict(seen.modes.most_common()),
        alpha=seen.alpha,
        turned=seen.turned,
        constant=sum(seen.constant),
        bad=seen.skips,
        bad_names=bad,
        duplicates={name: len(rows) for name, rows in repeated.items()},
        majority=_constant(counts, in_splits) if multi_label else _majority(counts),
        intervals={}
        if multi_label
        else {split: interval(ACCURACY, sum(counts[split])) for split in SPLITS[1:]},
        multi_label=multi_label,
        in_splits=in_splits if multi_label else {},
        unlabelled=_unlabelled(seen, splits) if multi_label else {},
    )
    leaks = Counter(splits[repeated["across"]].tolist())
    report.findings.extend(_findings(report, classes, leaks, max_bad))
    return report


def _sizes(shapes: Counter[tuple[int, int]]) -> dict[str, Any]:
    ordered = sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape))
    ends = np.cumsum([shapes[shape] for shape in ordered])
    median = ordered[int(np.searchsorted(ends, ends[-1] / 2))] if ordered else (0, 0)
    chosen = {"smallest": ordered[0], "median": median, "largest": ordered[-1]} if ordered else {}
    told = {name: [width, height] for name, (height, width) in chosen.items()}
    return {**told, "different": len(ordered)}


def _repeated(
    seen: Seen, splits: NDArray[np.int8], groups: NDArray[np.int64]
) -> dict[str, list[int]]:
    """Rows that repeat another row: within their split, one of the training split, or one of
    another class or with other labels."""
    inside: set[tuple[int, int]] = set()
    first_labels: dict[int, tuple[int, ...]] = {}
    trained = set(groups[splits == TRAIN].tolist())
    found: dict[str, list[int]] = {"within": [], "across": [], "other classes": []}
    for row, (split, group) in enumerate(zip(splits.tolist(), groups.tolist(), strict=True)):
        if (split, group) in inside:
            found["within"].append(row)
        inside.add((split, group))
        if split != TRAIN and group in trained:
            found["across"].append(row)
        labels = seen.labels_of(row)
        if first_labels.setdefault(group, labels) != labels:
            found["other classes"].append(row)
    return found


def _majority(counts: Mapping[str, list[int]]) -> float:
    common = int(np.argmax(counts[SPLITS[TRAIN]])) if counts[SPLITS[TRAIN]] else 0
    tested = sum(counts[SPLITS[TEST]])
    return round(counts[SPLITS[TEST]][common] / tested, 4) if tested else 0.0


def _constant(counts: Mapping[str, list[int]], in_splits: Mapping[str, int]) -> float:
    """Equal scores have the share of pictures with the label as their average precision."""
    shares = [count / in_splits[SPLITS[TEST]] for count in counts[SPLITS[TEST]] if count]
    return round(sum(shares) / len(shares), 4) if shares else 0.0


def _unlabelled(seen: Seen, splits: NDArray[np.int8]) -> dict[str, int]:
    without = np.diff(np.array(seen.ends, np.int64)) == 0
    return {split: int(np.count_nonzero(without & (splits == i))) for i, split in enumerate(SPLITS)}


def _findings(
    report: Report, classes: tuple[str, ...], leaks: Mapping[int, int], max_bad: float
) -> list[Finding]:
    return [
        finding
        for finding in (
            *_about_classes(report, classes),
            *_about_splits(report, leaks),
            *_about_pictures(report, max_bad),
        )
        if finding
    ]


def _about_classes(report: Report, classes: tuple[str, ...]) -> list[Finding]:
    found = []
    per_class = np.array([report.counts[split] for split in SPLITS]).reshape(len(SPLITS), -1)
    word, plural = _words(report)
    if not _tells(report, per_class.sum(0), report.pictures):
        message = f"all pictures are of one {word}: there is nothing to tell apart"
        if report.multi_label:
            message = "each label is on all pictures or on none: there is nothing to tell apart"
        found.append(Finding("one-class", message, True))
    if len(classes) > MAX_CLASSES or len(classes) * 2 > max(int(per_class.sum()), 4):
        found.append(Finding(
            "many-classes",
            f"{len(classes):,} {plural} for {report.pictures:,} pictures: is the {word} column a "
            "name or number of each picture?",
            True,
        ))  # fmt: skip
    if alike := _alike(classes):
        names = listed([" and ".join(map(repr, group)) for group in alike])
        message = (
            f"{plural} whose names differ in case, blanks or signs that look the same: {names}"
        )
        found.append(Finding("alike-names", message))
    for split, danger in (("train", True), ("validation", False), ("test", False)):
        lacking = [name for name, n in zip(classes, report.counts[split], strict=True) if not n]
        if lacking and len(lacking) < len(classes):
            without = counted(len(lacking), f"{word} has", f"{plural} have")
            message = f"{without} no {KIND.get(split, split)} picture, of {len(classes):,}"
            name = f"class-without-{split}"
            found.append(Finding(name, f"{message}: {listed(lacking)}", danger))
    return found


def _alike(classes: tuple[str, ...]) -> list[list[str]]:
    """Groups of names that look the same to a reader; they stay different classes."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        folded = unicodedata.normalize("NFKC", name).casefold()
        seen = (c for c in folded if not c.isspace() and unicodedata.category(c) != "Cf")
        groups.setdefault("".join(seen), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _words(report: Report) -> tuple[str, str]:
    return ("label", "labels") if report.multi_label else ("class", "classes")


def _tells(report: Report, counts: NDArray[np.int64], pictures: int) -> bool:
    """Whether there is something to learn: two classes, or a label that only some pictures have."""
    if report.multi_label:
        return bool(((counts > 0) & (counts < pictures)).any())
    return int(np.count_nonzero(counts)) > 1


def _about_splits(report: Report, leaks: Mapping[int, int]) -> list[Finding]:
    found = []
    for number, split in enumerate(SPLITS):
        total, kind = report.in_split(split), KIND.get(split, split)
        pictures = counted(total, f"{kind} picture")
        if not total:
            found.append(Finding(f"no-{split}", f"there is no {kind} picture", True))
        elif report.classes > 1 and not _tells(report, np.array(report.counts[split]), total):
            message = f"{pictures}, all of one class"
            if report.multi_label:
                message = f"each label is on all of {pictures}, or on none"
            found.append(Finding(f"one-class-{split}", message, True))
        if leaked := leaks.get(number, 0):
            message = f"{leaked:,} of {pictures} show the same as training pictures"
            found.append(Finding(f"leak-{split}", message, leaked > MAX_LEAK * total))
    return found


def _about_pictures(report: Report, max_bad: float) -> list[Finding]:
    found = []
    if report.bad:
        total = report.pictures + report.bad
        message = f"{report.bad:,} of {total:,} pictures cannot be used"
        found.append(Finding("bad", message, report.bad > max_bad * total))
    if report.constant:
        message = f"{report.constant:,} of {report.pictures:,} pictures are of one colour all over"
        danger = report.constant > MAX_CONSTANT * report.pictures
        found.append(Finding("constant", message, danger))
    if others := report.duplicates["other classes"]:
        another = "with other labels" if report.multi_label else "of another class"
        message = f"{others:,} pictures show the same as one {another}"
        found.append(Finding("two-classes", message))
    return found


def refused(report: Report, allowed: Collection[str]) -> list[Finding]:
    """The dangerous findings that the user did not allow."""
    return [finding for finding in report.dangers if finding.name not in allowed]
