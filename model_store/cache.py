"""A bounded folder of verified blobs, which all processes of a machine share.

It saves reading an object store again. A blob is downloaded by one process at a time, appears
whole, and is verified before it does; the least recently used ones go when the folder is full.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from model_store import atomic
from model_store.errors import CorruptBlob, StorageError
from model_store.local import read_file
from model_store.sizes import parse_size

DEFAULT_LIMIT_BYTES = 20 * 2**30
PATIENCE_S = 60.0  # with another process that downloads the same blob
FOLDER = "munet-blobs"  # below the one that is named: what is in it is ours, and nothing else is
_CHUNK_BYTES = 2**20


class BlobCache:
    """Blobs by the hex digits of their SHA-256. No daemon; killed anywhere, it stays valid."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._directory = directory / FOLDER
        self._limit_bytes = limit_bytes

    @classmethod
    def from_environment(cls) -> "BlobCache":
        """Below MUNET_CACHE (else ~/.cache/munet), of at most MUNET_CACHE_BYTES."""
        text = os.environ.get("MUNET_CACHE_BYTES")
        try:
            limit = parse_size(text) if text else DEFAULT_LIMIT_BYTES
        except ValueError as error:
            raise StorageError(f"MUNET_CACHE_BYTES: {error}") from None
        return cls(Path(os.environ.get("MUNET_CACHE") or _user_folder()), limit)

    def load(self, name: str, limit: int | None, fetch: Callable[[BinaryIO], None]) -> memoryview:
        """The blob of this name; `fetch` writes it to a file where it is not here yet.

        Raises TooLarge, CutShort, what `fetch` raises, and CorruptBlob for bytes of another digest.
        """
        while True:
            found = self._cached(name, limit)
            if found is not None:
                return found
            self._download(name, fetch)

    def forget(self, name: str) -> bool:
        """Remove a blob; False if it is not here, or cannot be removed."""
        try:
            (self._directory / name).unlink()
        except OSError:
            return False
        return True

    def _cached(self, name: str, limit: int | None) -> memoryview | None:
        path = self._directory / name
        try:
            with atomic.open_file(path) as file:
                with suppress(PermissionError):  # another user's file: the owner's uses count
                    os.utime(file.fileno())  # the time of last use
                return read_file(file, limit)
        except FileNotFoundError:
            return None

    def _download(self, name: str, fetch: Callable[[BinaryIO], None]) -> None:
        # It may be cleared at any time.
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        atomic.make_folders(self._directory, self._directory.parent)
        part, path = self._directory / f"~{name}", self._directory / name
        with _opened(part) as file:
            if not _free(file):  # whoever downloads it has come to a stop
                part = self._directory / f"~{name}-{os.getpid()}-{secrets.token_hex(4)}"
        with _opened(part) as file, atomic.locked(file.fileno()):
            if not atomic.is_at(file.fileno(), part):
                return  # whoever had the lock has finished, or failed and cleaned up
            try:
                if not path.exists():
                    self._fill(file, name, fetch)
                    if atomic.is_at(file.fileno(), part):
                        with suppress(FileNotFoundError):  # cleared meanwhile: `load` asks again
                            os.replace(part, path)
            finally:
                if atomic.is_at(file.fileno(), part):
                    part.unlink(missing_ok=True)
        self._evict(self._limit_bytes)

    def _fill(self, file: BinaryIO, name: str, fetch: Callable[[BinaryIO], None]) -> None:
        file.truncate(0)
        try:
            fetch(file)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._evict(0)  # all but the newest: reading matters more than having
            fetch(file)
        _require(name, file)

    def _evict(self, limit_bytes: int) -> None:
        """Remove the least recently used blobs beyond the limit; one process at a time."""
        with atomic.Lock(self._directory / "lock").held():
            for part in atomic.abandoned(self._directory):
                part.unlink(missing_ok=True)
            with os.scandir(self._directory) as entries:
                blobs = [
                    (status.st_mtime, status.st_size, entry.path)
                    for entry in entries
                    if len(entry.name) == 64 and (status := _status(entry))
                ]
            excess = sum(size for _, size, _ in blobs) - limit_bytes
            for _, size, path in sorted(blobs)[:-1]:  # the newest was asked for just now
                if excess <= 0:
                    return
                Path(path).unlink(missing_ok=True)
                excess -= size


def _status(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _user_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "munet"


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(atomic.open_or_make(path, path.parent), "r+b", buffering=0)


def _free(file: BinaryIO) -> bool:
    """Whether nobody downloads into a file any more, having waited for that for a while."""
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            return True
        except BlockingIOError:
            time.sleep(0.02)
    return False


def _require(name: str, file: BinaryIO) -> None:
    file.seek(0)
    found = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        found.update(chunk)
    if found.hexdigest() != name:
        raise CorruptBlob(
            f"blob sha256:{name}: the object store's bytes give sha256:{found.hexdigest()};"
            " remove the object and put or restore the original"
        )
