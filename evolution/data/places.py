"""The place of sets: a folder or an object store. The law: a set is there whole or not at all.

In a folder a set is written under a temporary name and renamed. In an object store its card is
written last, and without a card there is no set. If two commands add one name, one is refused.

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
_SCRATCH = "~"  # begins the names of unfinished sets; no set's name has it
_LOCK = "lock"


class Place(Protocol):
    """Sets by name, each a folder of files with a card."""

    def __str__(self) -> str: ...

    def names(self) -> list[str]:
        """The folders of the sets."""
        ...

    def card(self, name: str) -> bytes | None:
        """A set's card; None if there is no such set."""
        ...

    def open(self, name: str, file: str) -> Any:
        """A file of a set, for pyarrow. Raises FileNotFoundError."""
        ...

    def scratch(self) -> Any:
        """A context with a new folder for writing a set; removed at the end."""
        ...

    def publish(self, folder: Path, name: str) -> bool:
        """Makes the folder's content the set of that name; False if the name is in use."""
        ...

    def replace_card(self, name: str, data: bytes) -> None:
        """Replaces the card of a set."""
        ...

    def remove(self, name: str) -> bool:
        """Removes a set, also a broken one; False if there is nothing."""
        ...


def open_place(place: str | None = None) -> Place:
    """The given place, or that of MUNET_DATA, or the default. Raises DataError."""
    place = place or os.environ.get(VARIABLE) or DEFAULT
    if is_url(place):
        return BucketPlace(place)
    if "://" in place:
        raise DataError(f"{VARIABLE}: expected a folder, s3://…, gs://… or az://…, found {place!r}")
    folder = Path(place).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{VARIABLE}: expected a folder, found a file: {folder}; name another")
    return FolderPlace(folder)


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
        """As of Place; holds a lock, so that leftovers of dead processes can be recognised."""
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
        """As of Place; renames it first, so that no reader finds half of it."""
        if not (self.root / name).exists():
            return False
        with self.scratch() as folder:
            try:
                os.rename(self.root / name, folder / "removed")
            except FileNotFoundError:  # another command was faster
                return False
        return True


def _make_durable(path: Path) -> None:
    """Makes the content of a file or folder durable."""
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
        """As of Place; leftovers of an interrupted command must be removed first."""
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
        """As of Place; removes the card first, so that no reader finds half of it."""
        card = f"{name}/{CARD}"
        found = sorted(self._bucket.keys(f"{name}/"), key=lambda key: key != card)
        self._bucket.delete(found)
        return bool(found)
