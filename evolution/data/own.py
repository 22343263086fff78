"""A set as a task's data: its pictures by random access, and what a published path says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolution.data.check import ACCURACY
from evolution.data.places import Place, open_place
from evolution.data.rows import SPLITS
from evolution.data.stored import Card, Pictures, card_of, classes_of
from evolution.examples import Examples

LABEL_BYTES = 8
LONGEST_TOLD = 200  # characters of a finding in a path spec
REMEDY = "see what is wrong with it: munet data check {}"


@dataclass(frozen=True, slots=True)
class OwnData:
    """A set that is there under a task's name."""

    labels: tuple[str, ...]
    examples: Mapping[str, Examples]  # by split
    told: Mapping[str, Any]  # the field `data` of a path spec
    warnings: tuple[str, ...]


def own_data(name: str, place: Place | None = None) -> OwnData | None:
    """The set of that name at MUNET_DATA; None if there is none. Raises DataError."""
    place = place or open_place()
    card = card_of(place, name)
    if card is None:
        return None
    labels = classes_of(place, card)
    height, width = card.size or (None, None)
    examples = {
        split: Examples(
            source=f"{name} {split}",
            records=_Records(Pictures(place, name, card.files[split])),
            parse=_parse,
            num_classes=len(labels),
            shape=(height, width, 3),
            remedy=REMEDY.format(name),
        )
        for split in SPLITS
    }
    warnings = tuple(shortened(finding.message) for finding in card.check.findings)
    return OwnData(labels, examples, told_of(card), warnings)


def told_of(card: Card) -> dict[str, Any]:
    """What a path spec says of the data that it was trained on: the essential of its check.

    It is published with the task, so it is small, and names no folder of this machine.
    """
    report = card.check
    return {
        "name": card.name,
        "fingerprint": card.fingerprint,
        "source": card.source,
        "licence": card.licence,
        "pictures": {split: sum(report.counts[split]) for split in SPLITS},
        "skipped": card.left_out,
        "repeated_across_splits": report.duplicates["across"],
        "majority_accuracy": report.majority,
        "interval_95": {"of_accuracy": ACCURACY, **report.intervals},
        "findings": {found.name: shortened(found.message) for found in report.findings},
    }


def shortened(message: str) -> str:
    """A message with its end left out where it is long."""
    return message if len(message) <= LONGEST_TOLD else f"{message[: LONGEST_TOLD - 1]}…"


@dataclass(frozen=True, slots=True)
class _Records:
    """Pictures as records: the label, then the file."""

    pictures: Pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitems__(self, keys: Sequence[int], /) -> Sequence[bytes]:
        return [label.to_bytes(LABEL_BYTES) + data for data, label in self.pictures.rows(keys)]


def _parse(record: bytes) -> Mapping[str, Any]:
    return {"image": record[LABEL_BYTES:], "label": int.from_bytes(record[:LABEL_BYTES])}
