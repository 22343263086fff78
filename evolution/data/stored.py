"""Stored sets: written whole, found by name, read by row.

NAME/card.json                           facts about the set
NAME/data/train-00000-of-00001.parquet   the pictures, in the Hub's layout (parquet_layout.py)
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evolution.data.check import Report
from evolution.data.errors import DataError
from evolution.data.parquet_layout import (
    BYTES_A_GROUP,
    BYTES_A_SHARD,
    ROWS_A_GROUP,
    classes_in,
    is_list,
)
from evolution.data.parquet_layout import shard as shard_name
from evolution.data.places import CARD, Place
from evolution.data.rows import SPLITS
from model_store import InvalidName
from model_store.names import quote, require_name, unquote

FORMAT = 1
KEPT_GROUPS = 4  # row groups that a reader keeps
Written = tuple[str, bytes, tuple[int, ...]]  # path, bytes and labels of a picture


@dataclass(frozen=True, slots=True)
class Card:
    """Facts about a set."""

    name: str
    place: str  # the place given with --from
    source: str  # of the pictures, in words or as a URL; empty if not given
    licence: str
    fingerprint: str  # of classes, pictures and splits, independent of their storage
    seed: int  # of the splits that were made here
    made: list[str]  # those splits
    created: str  # UTC
    files: Mapping[str, list[str]]  # split -> its files, in order
    bytes: int
    size: list[int] | None  # height and width, if all pictures have the same
    left_out: int  # pictures of the source that could not be used
    left_out_names: list[str]  # the first of them, with their reasons
    check: Report
    multi_label: bool = False  # any number of labels a picture

    def to_bytes(self) -> bytes:
        """The card's bytes."""
        told = {"format": FORMAT, **asdict(self), "check": self.check.to_json()}
        return json.dumps(told, ensure_ascii=False, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Card:
        """Inverse of `to_bytes`; raises DataError."""
        try:
            told = json.loads(data)
            if told.pop("format") != FORMAT:
                raise DataError(f"{where}: written by a later version of munet; use that one")
            return cls(**{**told, "check": Report.from_json(told["check"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{where}: expected a card of a data set, found another document ({error!s:.80})\n"
                "remove the set (munet data rm NAME) and add it again"
            ) from None


def folder_of(name: str) -> str:
    """The folder of a set. Raises DataError for a name that is no task's."""
    try:
        return quote(require_name("data set", name))
    except InvalidName as error:
        legal = "".join(c if c.isascii() and (c.isalnum() or c in "._-/") else "-" for c in name)
        legal = "/".join(part.strip(".-") for part in legal.split("/") if part.strip(".-"))
        raise DataError(f"{error}\nfor example: {legal[:60] or 'my-photos'}") from None


def cards(place: Place, damaged: Callable[[DataError], object] = lambda error: None) -> list[Card]:
    """The cards of all sets, by name; calls `damaged` for each that cannot be read."""
    found = []
    for folder in place.names():
        try:
            card = card_of(place, unquote(folder))
        except InvalidName:
            continue
        except DataError as error:
            damaged(error)
            continue
        if card is not None:
            found.append(card)
    return sorted(found, key=lambda card: card.name)


def near_names(place: Place, name: str) -> str:
    """A hint for an unknown name: similar names, or how to list all."""
    near = get_close_matches(name, [card.name for card in cards(place)], n=3)
    return f"did you mean {', '.join(near)}?" if near else "munet data ls lists those there"


def card_of(place: Place, name: str) -> Card | None:
    """A set's card; None if the set is missing. Raises DataError."""
    folder = folder_of(name)
    data = place.card(folder)
    return None if data is None else Card.from_bytes(data, f"{place}/{folder}/{CARD}")


# ---- writing


class Fingerprint:
    """The fingerprint of a set: of classes, and of each split's labels and pictures in order."""

    def __init__(self, classes: Sequence[str], multi_label: bool) -> None:
        self._multi_label = multi_label
        self._found = hashlib.sha256(json.dumps(list(classes)).encode())
        self._splits = {split: hashlib.sha256() for split in SPLITS}

    def add(self, split: str, labels: Sequence[int], digest: bytes) -> None:
        """Adds the next picture of a split."""
        count = len(labels).to_bytes(8) if self._multi_label else b""
        numbers = b"".join(label.to_bytes(8) for label in labels)
        self._splits[split].update(count + numbers + digest)

    def text(self) -> str:
        """As `sha256:…`."""
        for split in SPLITS:
            self._found.update(self._splits[split].digest())
        return f"sha256:{self._found.hexdigest()}"


def write_split(
    folder: Path, split: str, schema: pa.Schema, rows: Iterable[Written]
) -> tuple[list[str], int]:
    """Writes rows below `folder`; the files, and their bytes.

    Raises OSError.
    """
    (folder / "data").mkdir(exist_ok=True)
    parts: list[_Shard] = []
    for group in _groups(rows):
        if not parts or parts[-1].full:
            if parts:
                parts[-1].close()
            parts.append(_Shard(folder / f"data/{split}.part{len(parts)}", schema))
        parts[-1].write(group)
    if parts:
        parts[-1].close()
    names = [shard_name(split, i, len(parts)) for i in range(len(parts))]
    for part, name in zip(parts, names, strict=True):
        os.rename(part.path, folder / name)
    return names, sum((folder / name).stat().st_size for name in names)


class _Shard:
    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        # Statistics and dictionaries of the picture column would repeat pictures.
        columns: Any = ["label"]  # pyarrow's types know only one answer for all columns
        self._writer = pq.ParquetWriter(
            path, schema, use_dictionary=columns, write_statistics=columns
        )
        self._bytes = 0

    @property
    def full(self) -> bool:
        return self._bytes >= BYTES_A_SHARD

    def write(self, group: list[Written]) -> None:
        images = [{"bytes": data, "path": path} for path, data, _ in group]
        lists = is_list(self._writer.schema.field("label").type)
        labels = [labels if lists else labels[0] for _, _, labels in group]
        table = pa.table({"image": images, "label": labels}, schema=self._writer.schema)
        self._writer.write_table(table)
        self._bytes += sum(len(data) for _, data, _ in group)

    def close(self) -> None:
        self._writer.close()


def _groups(rows: Iterable[Written]) -> Iterator[list[Written]]:
    group, size = [], 0
    for row in rows:
        group.append(row)
        size += len(row[1])
        if len(group) == ROWS_A_GROUP or size >= BYTES_A_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


# ---- reading


class Pictures:
    """The pictures of a split: random access by row group, a few of which are kept."""

    def __init__(self, place: Place, name: str, files: Sequence[str]) -> None:
        """Reads the files' footers. Raises DataError."""
        self._where = f"{place}/{folder_of(name)}"
        self._files: list[pq.ParquetFile] = []
        self._groups: list[tuple[int, int]] = []  # file and row group in it
        ends = [0]
        for number, file in enumerate(files):
            try:
                opened = pq.ParquetFile(place.open(folder_of(name), file))
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(file, error) from None
            self._files.append(opened)
            for group in range(opened.metadata.num_row_groups):
                self._groups.append((number, group))
                ends.append(ends[-1] + opened.metadata.row_group(group).num_rows)
        self._ends = np.array(ends)
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.Lock()  # a parquet file is read by one thread at a time

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, as the first file has them."""
        return (classes_in(self._files[0].schema_arrow, "label") if self._files else None) or ()

    def rows(self, numbers: Sequence[int]) -> list[tuple[bytes, tuple[int, ...]]]:
        """Bytes and labels of rows, in the given order; reads each row group once.

        Raises DataError.
        """
        wanted = np.asarray(numbers, np.int64)
        of = np.searchsorted(self._ends, wanted, side="right") - 1
        found: dict[int, tuple[bytes, tuple[int, ...]]] = {}
        with self._lock:
            for group in np.unique(of).tolist():
                table = self._group(group)
                image, label = table["image"].combine_chunks(), table["label"]
                data = image.field("bytes")
                for position in np.flatnonzero(of == group).tolist():
                    row = int(wanted[position] - self._ends[group])
                    given = label[row].as_py()
                    labels = tuple(given) if isinstance(given, list) else (given,)
                    found[position] = (data[row].as_py(), labels)
        return [found[position] for position in range(len(wanted))]

    def _group(self, group: int) -> pa.Table:
        table = self._kept.pop(group, None)
        if table is None:
            file, number = self._groups[group]
            try:
                table = self._files[file].read_row_group(number, columns=["image", "label"])
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(f"row group {number} of file {file}", error) from None
        self._kept[group] = table
        if len(self._kept) > KEPT_GROUPS:
            self._kept.popitem(last=False)
        return table

    def _damaged(self, what: str, error: Exception) -> DataError:
        return DataError(
            f"{self._where}: {what} cannot be read: {error!s:.200}\n"
            "the stored set is damaged: remove it (munet data rm) and add it again"
        )

    def each(self) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """All rows in order, a row group in memory at a time."""
        for start, end in zip(self._ends[:-1].tolist(), self._ends[1:].tolist(), strict=True):
            yield from self.rows(range(start, end))


def classes_of(place: Place, card: Card) -> tuple[str, ...]:
    """The names of a set's classes. Raises DataError."""
    first = next(file for split in SPLITS for file in card.files[split])
    return Pictures(place, card.name, [first]).classes
