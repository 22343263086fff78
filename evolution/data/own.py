"""A set as a task's data: its pictures by random access, and its part of a path spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evolution.data.check import ACCURACY, Report
from evolution.data.errors import DataError
from evolution.data.images import Examples
from evolution.data.places import Place, open_place
from evolution.data.rows import SPLITS
from evolution.data.stored import Card, Pictures, card_of, classes_of
from vit.decode import VIEWER, Decoding

LABEL_BYTES = 8
LONGEST_TOLD = 200  # characters of a finding in a path spec
REMEDY = "see what is wrong with it: munet data check {}"


@dataclass(frozen=True, slots=True)
class OwnData:
    """A set with a task's name."""

    labels: tuple[str, ...]
    multi_label: bool
    examples: Mapping[str, Examples]  # by split
    told: Mapping[str, Any]  # the field `data` of a path spec
    warnings: tuple[str, ...]


def own_data(name: str, place: Place | None = None) -> OwnData | None:
    """The set of that name at MUNET_DATA; None if it is missing. Raises DataError."""
    place = place or open_place()
    card = card_of(place, name)
    if card is None:
        return None
    labels = classes_of(place, card)
    pictures = {split: Pictures(place, name, card.files[split]) for split in SPLITS}
    for split, found in pictures.items():
        if len(found) != (told := card.check.in_split(split)):
            raise DataError(
                f"data set {name}: expected {told:,} {split} pictures, found {len(found):,}: its "
                f"files were changed; remove it (munet data rm {name}) and add it again"
            )
    height, width = card.size or (None, None)
    examples = {
        split: Examples(
            source=f"{name} {split}",
            records=_Records(pictures[split], card.multi_label),
            parse=_parse_list if card.multi_label else _parse,
            num_classes=len(labels),
            shape=(height, width, 3),
            decoding=decoding_rules(card),
            remedy=REMEDY.format(name),
            multi_label=card.multi_label,
        )
        for split in SPLITS
    }
    warnings = tuple(shortened(finding.message) for finding in card.check.findings)
    return OwnData(labels, card.multi_label, examples, told_of(card), warnings)


def decoding_rules(card: Card) -> Decoding:
    """The rules by which the set's files are decoded, in training and in serving.

    A viewer's. Where most of the pictures are JPEG, as those of cameras are, these are reduced. A
    set of other files teaches a network nothing about reduced pictures.
    """
    jpegs = sum(count for mode, count in card.check.modes.items() if mode.startswith("JPEG "))
    return replace(VIEWER, reduced=2 * jpegs > card.check.pictures)


def told_of(card: Card) -> dict[str, Any]:
    """The main results of the set's check, for path specs.

    They are published with the task, so they are short and have no folder of this machine.
    """
    report = card.check
    return {
        "name": card.name,
        "fingerprint": card.fingerprint,
        "source": card.source,
        "licence": card.licence,
        "pictures": {split: report.in_split(split) for split in SPLITS},
        "skipped": card.left_out,
        "repeated_across_splits": report.duplicates["across"],
        **_yardsticks(report),
        "findings": {found.name: shortened(found.message) for found in report.findings},
    }


def _yardsticks(report: Report) -> dict[str, Any]:
    """Reference values for a quality measured on the set."""
    if report.multi_label:
        return {"constant_mean_average_precision": report.majority, "unlabelled": report.unlabelled}
    between = {"of_accuracy": ACCURACY, **report.intervals}
    return {"majority_accuracy": report.majority, "interval_95": between}


def shortened(message: str) -> str:
    """A message without its end if it is long."""
    return message if len(message) <= LONGEST_TOLD else f"{message[: LONGEST_TOLD - 1]}…"


@dataclass(frozen=True, slots=True)
class _Records:
    """Pictures as records: the label, or the number of labels and each, then the file."""

    pictures: Pictures
    multi_label: bool

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitems__(self, keys: Sequence[int], /) -> Sequence[bytes]:
        return [self._record(data, labels) for data, labels in self.pictures.rows(keys)]

    def _record(self, data: bytes, labels: Sequence[int]) -> bytes:
        numbers = [len(labels), *labels] if self.multi_label else labels
        return b"".join(number.to_bytes(LABEL_BYTES) for number in numbers) + data


def _parse(record: bytes) -> Mapping[str, Any]:
    return {"image": record[LABEL_BYTES:], "label": int.from_bytes(record[:LABEL_BYTES])}


def _parse_list(record: bytes) -> Mapping[str, Any]:
    end = LABEL_BYTES * (1 + int.from_bytes(record[:LABEL_BYTES]))
    numbers = np.frombuffer(record[LABEL_BYTES:end], ">i8")
    return {"image": record[end:], "label": numbers}
