"""The output of every source: pictures as encoded bytes, one after the other."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from evolution.data.errors import DataError, listed

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
FOLLOWED = "copy the folder with what links lead to (cp -rL), and give that"
MAX_FILE_BYTES = 100 << 20  # of one picture, which is read into memory


@dataclass(frozen=True, slots=True)
class Row:
    """One picture from its source."""

    path: str  # its place in the source, for messages
    image: bytes  # the encoded file
    labels: tuple[str, ...]  # one, or any number in a source with several labels a picture
    split: str | None = None  # one of SPLITS; None if the source does not say


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture of the source that cannot be used."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """A source of pictures."""

    rows: Callable[[], Iterator[Row | Skipped]]
    classes: tuple[str, ...] | None = None  # names in order; None: the names found, sorted
    total: int | None = None  # number of rows, if known
    notes: list[str] = field(default_factory=list)  # what was left out, for the user
    # Whether pictures have several labels; a source may have to be read to know that.
    multi_label: Callable[[], bool] = lambda: False


def joined(name: str, parts: list[Source]) -> Source:
    """Several sources as one, in order. Raises DataError if their classes differ."""
    found = {part.classes for part in parts}
    if len(found) > 1:
        raise DataError(
            f"{name}: expected the same classes in all {len(parts)} parts, found {len(found)} lists"
            " of them; add the files of one data set only"
        )
    totals = [part.total for part in parts if part.total is not None]
    return Source(
        rows=lambda: chain.from_iterable(part.rows() for part in parts),
        classes=parts[0].classes,
        total=sum(totals) if len(totals) == len(parts) else None,
        notes=[note for part in parts for note in part.notes],
        multi_label=lambda: any([part.multi_label() for part in parts]),
    )


def split_named(text: str) -> str | None:
    """The split that a name means, as `val` for validation; None if unknown."""
    return SPLIT_NAMES.get(text.strip().lower())


def in_order(classes: set[str]) -> tuple[str, ...]:
    """Class names in their order: by number if all are whole numbers, else by letters."""
    if all(name.isascii() and name.isdecimal() for name in classes):
        return tuple(sorted(classes, key=lambda name: (int(name), name)))
    return tuple(sorted(classes))


def read_picture(path: Path, root: Path, outside: str = FOLLOWED) -> bytes:
    """A file's bytes; `root` is resolved. Raises ValueError, saying why it cannot be used.

    `outside` is what to do about a file that lies elsewhere.

    A link counts as the file it leads to, which has to lie below `root`.
    """
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root):
            raise ValueError(f"leads out of {root}; {outside}")
        found = real.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("no plain file")
        if found.st_size > MAX_FILE_BYTES:
            raise ValueError(f"{found.st_size >> 20} MiB, expected {MAX_FILE_BYTES >> 20} at most")
        with open(real, "rb", buffering=0, opener=_opener) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ValueError("no such file (any more)") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise ValueError(getattr(error, "strerror", None) or "links in a circle") from None
    if not data:
        raise ValueError("an empty file")
    return data


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def require_text(names: set[str], what: str) -> None:
    """Raises DataError for names that are not Unicode, as on files from other systems."""
    broken = sorted(name for name in names if not _is_unicode(name))
    if broken:
        raise DataError(
            f"{what}: expected names in UTF-8, found {listed([ascii(n) for n in broken])}; "
            "rename them"
        )


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
