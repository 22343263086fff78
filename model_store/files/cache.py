"""A bounded folder of verified blobs, which all processes of a machine share.

It saves reading an object store again. A blob is downloaded by one process at a time, appears
whole, and is verified before it does; the least recently used ones go when the folder is full.
It only saves work: where it cannot be used, blobs are read without it, and one warning says so.

By hand: libraries of caches on disk keep an index in a database, and do not verify what they read.
"""

import errno
import fcntl
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from model_store.errors import CorruptBlob, NotAFile, StorageError
from model_store.files import atomic
from model_store.files.limits import parse_size
from model_store.files.local import read_file

logger = logging.getLogger(__name__)
MOST_BYTES = 20 * 2**30  # where no limit is set
SHARE = 0.5  # of what there is room for, where no limit is set: others write there too
PATIENCE_S = 60.0  # with another process that downloads the same blob
FOLDER = "munet-blobs"  # below the one that is named: what is in it is ours, and nothing else is
_CHUNK_BYTES = 2**20


class BlobCache:
    """Blobs by the hex digits of their SHA-256. No daemon; killed anywhere, it stays valid."""

    def __init__(self, directory: Path, limit_bytes: int | None = None) -> None:
        """Without a limit it takes its SHARE of what the file system has room for, and at most
        MOST_BYTES.
        """
        self._directory = directory / FOLDER
        self._limit_bytes = limit_bytes
        self._usable = True  # until it was not

    @classmethod
    def from_environment(cls) -> "BlobCache":
        """Below MUNET_CACHE (else ~/.cache/munet), of at most MUNET_CACHE_BYTES."""
        text = os.environ.get("MUNET_CACHE_BYTES")
        try:
            limit = parse_size(text) if text else None
        except ValueError as error:
            raise StorageError(f"MUNET_CACHE_BYTES: {error}") from None
        return cls(Path(os.environ.get("MUNET_CACHE") or _user_folder()), limit)

    def load(self, name: str, limit: int | None, fetch: Callable[[BinaryIO], None]) -> memoryview:
        """The blob of this name; `fetch` writes it to a file where it is not here yet.

        An OSError of `fetch` is one of the file that it writes. Raises TooLarge, CutShort, what
        else `fetch` raises, and CorruptBlob for bytes of another digest.
        """
        try:
            while True:
                found = self._cached(name, limit)
                if found is not None:
                    return found
                self._download(name, fetch)
        except (OSError, NotAFile) as error:
            self._warn(error)
        with os.fdopen(os.memfd_create(name), "r+b", buffering=0) as file:
            fetch(file)
            _require(name, file)
            file.seek(0)
            return read_file(file, limit)

    def _warn(self, error: Exception) -> None:
        """Once."""
        if self._usable:
            self._usable = False
            logger.warning(
                "event=cache_not_used folder=%s error=%r: every blob is read from the store; let "
                "MUNET_CACHE name a folder that can be written to and has room",
                *(self._directory, str(error)),
            )

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
                with suppress(OSError):  # another user's file, or read-only: others' uses count
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
            if not _free(file):  # the one that downloads it has come to a stop
                part = self._directory / f"~{name}-{os.getpid()}-{secrets.token_hex(4)}"
        with _opened(part) as file, atomic.locked(file.fileno()):
            if not atomic.is_at(file.fileno(), part):
                return  # the one that had the lock has finished, or failed and cleaned up
            try:
                if not path.exists():
                    self._fill(file, name, fetch)
                    if atomic.is_at(file.fileno(), part):
                        with suppress(FileNotFoundError):  # cleared meanwhile: `load` asks again
                            os.replace(part, path)
            finally:
                if atomic.is_at(file.fileno(), part):
                    part.unlink(missing_ok=True)
        self._evict()

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

    def _evict(self, limit_bytes: int | None = None) -> None:
        """Remove the least recently used blobs beyond this limit, or the cache's own; one process
        at a time.
        """
        with atomic.Lock(self._directory / "lock").held():
            for part in atomic.abandoned(self._directory):
                part.unlink(missing_ok=True)
            with os.scandir(self._directory) as entries:
                blobs = [
                    (status.st_mtime, status.st_size, entry.path)
                    for entry in entries
                    if len(entry.name) == 64 and (status := _status(entry))
                ]
            taken = sum(size for _, size, _ in blobs)
            excess = taken - (self._limit(taken) if limit_bytes is None else limit_bytes)
            for _, size, path in sorted(blobs)[:-1]:  # the newest was asked for just now
                if excess <= 0:
                    return
                Path(path).unlink(missing_ok=True)
                excess -= size

    def _limit(self, taken: int) -> int:
        """The cache's own, where its blobs take this many bytes."""
        if self._limit_bytes is not None:
            return self._limit_bytes
        found = os.statvfs(self._directory)
        return min(MOST_BYTES, int(SHARE * (taken + found.f_bavail * found.f_frsize)))


def _status(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _user_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "munet"
    except RuntimeError:  # a user without a home
        return Path(os.devnull) / "munet"  # where nothing can be made


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
