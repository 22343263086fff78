"""Pictures before they are stored: written once to a scratch file, with facts about each.

A source is read once, so even a folder that is changing gives one consistent set. Memory holds
about 300 bytes a picture; the pictures are on the disk.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from evolution.data.picture_facts import THUMB, Facts
from evolution.data.rows import SPLITS, Skipped

NO_SPLIT = -1
NAMED = 1000  # skipped pictures whose names are kept


@dataclass(slots=True)
class Seen:
    """Facts about the pictures of a set, in source order."""

    labels: array[int] = field(default_factory=lambda: array("q"))  # of one picture after another
    ends: array[int] = field(default_factory=lambda: array("q", [0]))  # of the labels of each
    splits: array[int] = field(default_factory=lambda: array("b"))  # of SPLITS, or NO_SPLIT
    sizes: array[int] = field(default_factory=lambda: array("q"))  # bytes
    hashes: array[int] = field(default_factory=lambda: array("Q"))
    constant: array[int] = field(default_factory=lambda: array("b"))
    thumbs: bytearray = field(default_factory=bytearray)
    digests: bytearray = field(default_factory=bytearray)  # sha256 of each
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)  # height and width
    modes: Counter[str] = field(default_factory=Counter)
    alpha: int = 0
    turned: int = 0
    skipped: list[Skipped] = field(default_factory=list)  # the first NAMED
    skips: int = 0

    def __len__(self) -> int:
        return len(self.splits)

    def add(self, data: bytes, facts: Facts, labels: Iterable[int], split: str | None) -> None:
        """Records a picture."""
        self.labels.extend(labels)
        self.ends.append(len(self.labels))
        self.splits.append(NO_SPLIT if split is None else SPLITS.index(split))
        self.sizes.append(len(data))
        self.hashes.append(facts.hash)
        self.constant.append(facts.constant)
        self.thumbs += facts.thumb
        self.digests += hashlib.sha256(data).digest()
        self.shapes[facts.height, facts.width] += 1
        self.modes[f"{facts.format} {facts.mode}"] += 1
        self.alpha += facts.alpha
        self.turned += facts.turned

    def skip(self, skipped: Skipped) -> None:
        """Records a picture that cannot be used."""
        self.skips += 1
        if len(self.skipped) < NAMED:
            self.skipped.append(skipped)

    def labels_of(self, row: int) -> tuple[int, ...]:
        """The labels of a picture, ascending."""
        return tuple(sorted(self.labels[self.ends[row] : self.ends[row + 1]]))

    def given(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The picture's number and the label, for each label of a picture, [labels] each."""
        counts = np.diff(np.array(self.ends, np.int64))
        return np.repeat(np.arange(len(self)), counts), np.array(self.labels, np.int64)

    def digest(self, row: int) -> bytes:
        """The sha256 of a picture's bytes."""
        return bytes(self.digests[32 * row : 32 * row + 32])

    def looks(self) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """Hashes [n] and thumbnails [n, THUMB * THUMB * 3]."""
        thumbs = np.frombuffer(bytes(self.thumbs), np.uint8).reshape(-1, THUMB * THUMB * 3)
        return np.array(self.hashes, np.uint64), thumbs


class Staged:
    """The bytes of pictures in a scratch file, by number."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._ends = array("q", [0])

    def __enter__(self) -> Staged:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, path: str, data: bytes) -> None:
        """Appends a picture and its place in the source."""
        name = path.encode("utf-8", "backslashreplace")
        self._file.write(len(name).to_bytes(4) + name + data)
        self._ends.append(self._ends[-1] + 4 + len(name) + len(data))

    def read(self, row: int) -> tuple[str, bytes]:
        """A picture and its place, as appended."""
        start, end = self._ends[row], self._ends[row + 1]
        self._file.seek(start)
        record = self._file.read(end - start)
        name = 4 + int.from_bytes(record[:4])
        return record[4:name].decode(), record[name:]
