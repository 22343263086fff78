"""What gateways have kept of a task: pictures with the answers that they got.

A gateway writes them as parquet files, `samples-….parquet`, into a folder or a bucket
(service/samples/README.md). Of equal pictures, the last answer counts. The labels are answers of a
version, so a person corrects them before anything is trained on them: `write_labels`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from evolution.data.buckets import Bucket, is_url
from evolution.data.check import Finding
from evolution.data.errors import DataError, listed
from evolution.data.rows import Row, Source
from evolution.data.tables import LABEL_SEPARATOR
from vit.activation import SIGMOID

SAMPLES = "samples:"
TABLE, PICTURES = "labels.csv", "pictures"
COLUMNS = ("image", "label", "probability", "version", "time")
FACTS = ("image.path", "label", "probability", "task", "version", "activation", "time")
_FILE = re.compile(r"samples-[0-9TZa-f-]+\.parquet")
_PICTURE = re.compile(r"[0-9a-f]{32}(\.[a-z]{3,4})?")


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture and its last answer."""

    name: str  # made of the digest of its bytes
    labels: tuple[str, ...]
    probability: float  # how sure the answer was
    version: int
    several: bool  # whether a picture of the task has any number of labels
    time: datetime
    file: str  # where it lies, and
    row: int


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of a task, those of the least sure answers first."""

    task: str
    found: list[Sample]
    pictures: Callable[[], Iterator[tuple[Sample, bytes]]]  # in any order
    notes: list[str] = field(default_factory=list)  # files that cannot be read

    @property
    def multi_label(self) -> bool:
        """Whether pictures have several labels."""
        return any(sample.several for sample in self.found)


class _Place(Protocol):
    """Files by name, for pyarrow."""

    def names(self) -> list[str]: ...

    def open(self, name: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class _Folder:
    root: Path

    def names(self) -> list[str]:
        return [path.name for path in self.root.iterdir()]

    def open(self, name: str) -> Any:
        return (self.root / name).open("rb")


@dataclass(frozen=True, slots=True)
class _Prefix:
    bucket: Bucket

    def names(self) -> list[str]:
        return [key for key in self.bucket.keys("") if "/" not in key]

    def open(self, name: str) -> Any:
        return self.bucket.open(name)


def uncorrected(place: str) -> list[Finding]:
    """The finding of a set whose labels nobody has looked at."""
    if not place.startswith(SAMPLES):
        return []
    task = place.removeprefix(SAMPLES)
    message = f"the labels are answers of {task} itself: munet data label {task} --to FOLDER"
    return [Finding("uncorrected", message, True)]


def samples_source(task: str, place: str) -> Source:
    """The pictures of a task, labelled as they were answered. Raises DataError."""
    samples = samples_of(task, place)

    def rows() -> Iterator[Row]:
        for sample, image in samples.pictures():
            yield Row(sample.name, image, sample.labels)

    return Source(
        rows, None, len(samples.found), samples.notes, multi_label=lambda: samples.multi_label
    )


def write_labels(samples: Samples, folder: Path) -> None:
    """Writes a table to correct, and its pictures. Raises DataError or OSError."""
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: expected an empty folder or none; name another with --to")
    if not samples.multi_label:
        _require_no_separator(samples)
    (folder / PICTURES).mkdir(parents=True)
    for sample, image in samples.pictures():
        (folder / PICTURES / sample.name).write_bytes(image)
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for sample in samples.found:
            label = LABEL_SEPARATOR.join(sample.labels)
            time = sample.time.isoformat(timespec="seconds")
            probability = f"{sample.probability:.3f}"
            writer.writerow([f"{PICTURES}/{sample.name}", label, probability, sample.version, time])


def _require_no_separator(samples: Samples) -> None:
    for sample in samples.found:
        if LABEL_SEPARATOR in sample.labels[0]:
            raise DataError(
                f"class {sample.labels[0]!r:.60}: expected names without {LABEL_SEPARATOR!r}, "
                "which separates labels in a table\nsort its pictures into class folders by hand"
            )


def samples_of(task: str, place: str) -> Samples:
    """What is kept of a task at a place, a folder or URL. Raises DataError."""
    opened = _opened(task, place)
    newest: dict[str, Sample] = {}
    notes: list[str] = []
    tasks: set[str] = set()
    for file in sorted(filter(_FILE.fullmatch, opened.names())):
        try:
            for row, facts in enumerate(_facts(opened, file)):
                tasks.add(facts["task"])
                if facts["task"] == task and (sample := _sample(facts, file, row)):
                    before = newest.get(sample.name)
                    if before is None or before.time <= sample.time:
                        newest[sample.name] = sample
        except FileNotFoundError:  # it was the oldest, and a gateway has made room
            continue
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            notes.append(f"left out, as it cannot be read: {file}: {error!s:.100}")
    if not newest:
        raise DataError(
            f"{place}: expected samples of the task {task}, found "
            f"{f'those of {listed(sorted(tasks))}' if tasks else 'no samples'}\n"
            "a gateway keeps some with MUNET_SAMPLES=1% and MUNET_SAMPLES_TO=PLACE"
        )
    found = sorted(newest.values(), key=lambda one: (one.probability, one.name))
    return Samples(task, found, lambda: _pictures(opened, found), notes)


def _opened(task: str, place: str) -> _Place:
    if not place:
        raise DataError(
            f"{SAMPLES}{task}: expected the place where a gateway keeps samples, found none; give "
            "it with --samples, or set MUNET_SAMPLES_TO"
        )
    if is_url(place):
        return _Prefix(Bucket(place))
    if not Path(place).is_dir():
        raise DataError(f"{place}: expected a folder of samples, found none; correct --samples")
    return _Folder(Path(place))


def _facts(place: _Place, file: str) -> Iterator[Mapping[str, Any]]:
    """All of each row but its picture."""
    with place.open(file) as opened, pq.ParquetFile(opened) as table:
        for batch in table.iter_batches(columns=list(FACTS)):
            yield from batch.to_pylist()


def _sample(facts: Mapping[str, Any], file: str, row: int) -> Sample | None:
    """None for a row whose picture has a name that no gateway gives."""
    name = facts["image"]["path"]
    if not _PICTURE.fullmatch(name):
        return None
    return Sample(
        name,
        tuple(facts["label"]),
        facts["probability"],
        facts["version"],
        facts["activation"] == SIGMOID,
        facts["time"],
        file,
        row,
    )


def _pictures(place: _Place, found: list[Sample]) -> Iterator[tuple[Sample, bytes]]:
    """The pictures, in the order in which they lie; one row group in memory at a time."""
    wanted: dict[str, dict[int, Sample]] = {}
    for sample in found:
        wanted.setdefault(sample.file, {})[sample.row] = sample
    for file, rows in wanted.items():
        try:
            with place.open(file) as opened, pq.ParquetFile(opened) as table:
                yield from _pictures_in(table, rows)
        except FileNotFoundError:
            raise DataError(
                f"{file}: expected it still there, but a gateway has removed it to make room; try "
                "again, or raise MUNET_SAMPLES_BYTES"
            ) from None


def _pictures_in(
    table: pq.ParquetFile, rows: Mapping[int, Sample]
) -> Iterator[tuple[Sample, bytes]]:
    first = 0
    for group in range(table.num_row_groups):
        after = first + table.metadata.row_group(group).num_rows
        if chosen := [row for row in rows if first <= row < after]:
            column = table.read_row_group(group, ["image.bytes"]).column("image")
            for row in chosen:
                yield rows[row], column[row - first].as_py()["bytes"]
        first = after
