"""Where sets lie: a folder or an object store. The law: a set is there as a whole or not at all.

In a folder it is written beside and renamed; in an object store its card is written last, and what
has no card is no set. Two that add one name at the same time: one of them is refused.

    MUNET_DATA   a folder or URL (s3://bucket/prefix, gs://…, az://…)
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from evolution.data.buckets import Bucket, is_url
from evolution.data.errors import DataError

VARIABLE = "MUNET_DATA"
DEFAULT = "~/.local/share/munet/data"
CARD = "card.json"
MAX_CARD_BYTES = 64 << 20
_SCRATCH = "~"  # before the names of what is being written: no set's name has it
_LOCK = "lock"


class Place(Protocol):
    """Sets by name, each a folder of files with a card among them."""

    def __str__(self) -> str: ...

    def names(self) -> list[str]:
        """The folders of the sets that are there."""
        ...

    def card(self, name: str) -> bytes | None:
        """A set's card; None if there is no such set."""
        ...

    def open(self, name: str, file: str) -> Any:
        """What pyarrow reads a file of a set from. Raises FileNotFoundError."""
        ...

    def scratch(self) -> Any:
        """A context: a new folder to write a set into, gone at its end."""
        ...

    def publish(self, folder: Path, name: str) -> bool:
        """Makes the folder's content the set of that name; False if there is one already."""
        ...

    def replace_card(self, name: str, data: bytes) -> None:
        """Another card for a set that is there."""
        ...

    def remove(self, name: str) -> bool:
        """Takes a set away, or what is left of one; False if there is nothing."""
        ...


def open_place(place: str | None = None) -> Place:
    """The place given, or that of MUNET_DATA, or the default. Raises DataError."""
    place = place or os.environ.get(VARIABLE) or DEFAULT
    if is_url(place):
        return BucketPlace(place)
    if "://" in place:
        raise DataError(f"{VARIABLE}: expected a folder, s3://…, gs://… or az://…, found {place!r}")
    return FolderPlace(Path(place).expanduser().absolute())


class FolderPlace:
    """Sets in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def names(self) -> list[str]:
        """As of Place."""
        if not self.root.is_dir():
            return []
        return [path.parent.name for path in self.root.glob(f"[!{_SCRATCH}]*/{CARD}")]

    def card(self, name: str) -> bytes | None:
        """As of Place."""
        try:
            return (self.root / name / CARD).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, name: str, file: str) -> Any:
        """As of Place."""
        return (self.root / name / file).open("rb")

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """As of Place; locked meanwhile, so that what a dead process left can be told from it."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._sweep()
        folder = self.root / f"{_SCRATCH}{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            with (folder / _LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Removes what dead processes left: their locks are free."""
        for folder in self.root.glob(f"{_SCRATCH}*"):
            with suppress(OSError), (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, name: str) -> bool:
        """As of Place."""
        for path in (*folder.rglob("*"), folder):
            _make_durable(path)
        try:
            os.rename(folder, self.root / name)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            raise
        _make_durable(self.root)
        return True

    def replace_card(self, name: str, data: bytes) -> None:
        """As of Place."""
        with self.scratch() as folder:
            (folder / CARD).write_bytes(data)
            os.replace(folder / CARD, self.root / name / CARD)

    def remove(self, name: str) -> bool:
        """As of Place; renamed first, so that nobody finds half of it."""
        if not (self.root / name).exists():
            return False
        with self.scratch() as folder:
            try:
                os.rename(self.root / name, folder / "removed")
            except FileNotFoundError:  # another command was faster
                return False
        return True


def _make_durable(path: Path) -> None:
    """What was written to a file or folder outlives the machine's end."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class BucketPlace:
    """Sets below a URL of an object store."""

    def __init__(self, url: str) -> None:
        self._bucket = Bucket(url)

    def __str__(self) -> str:
        return self._bucket.url

    def names(self) -> list[str]:
        """As of Place."""
        return [name for name in self._bucket.folders() if self.card(name) is not None]

    def card(self, name: str) -> bytes | None:
        """As of Place."""
        return self._bucket.read(f"{name}/{CARD}", MAX_CARD_BYTES)

    def open(self, name: str, file: str) -> Any:
        """As of Place."""
        return self._bucket.open(f"{name}/{file}")

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """As of Place; a temporary folder of this machine."""
        with tempfile.TemporaryDirectory(prefix="munet-data-") as folder:
            yield Path(folder)

    def publish(self, folder: Path, name: str) -> bool:
        """As of Place; what an interrupted one left is replaced by removing it first."""
        if self.card(name) is not None:
            return False
        written: list[str] = []
        files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        try:
            for file in [*(f for f in files if f != CARD), CARD]:
                if not self._bucket.create(f"{name}/{file}", folder / file):
                    raise DataError(
                        f"{self}/{name}/{file}: expected nothing there, found an object: another "
                        "command adds this set, or one was killed\n"
                        f"wait for the other, or clear what is left: munet data rm {name}"
                    )
                written.append(file)
        finally:
            if CARD not in written:
                self._bucket.delete([f"{name}/{file}" for file in written])
        return True

    def replace_card(self, name: str, data: bytes) -> None:
        """As of Place."""
        self._bucket.replace(f"{name}/{CARD}", data)

    def remove(self, name: str) -> bool:
        """As of Place; the card first, so that nobody finds half of it."""
        card = f"{name}/{CARD}"
        found = sorted(self._bucket.keys(f"{name}/"), key=lambda key: key != card)
        self._bucket.delete(found)
        return bool(found)
