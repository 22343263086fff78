"""A bounded folder of verified blobs, which all processes of a machine share.

It saves reading an object store again. A blob is downloaded by one process at a time, appears
whole, and is verified before it does; the least recently used ones go when the folder is full.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from model_store import atomic
from model_store.errors import CorruptBlob
from model_store.local import map_file

DEFAULT_LIMIT_BYTES = 20 * 2**30
_CHUNK_BYTES = 2**20


class BlobCache:
    """Blobs by the hex digits of their SHA-256. Needs no daemon; killed anywhere, it stays valid.

    A mapping that was handed out stays readable when its file has gone.
    """

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes

    @classmethod
    def from_environment(cls) -> "BlobCache":
        """In MUNET_CACHE (else ~/.cache/munet/blobs), of at most MUNET_CACHE_BYTES."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        directory = Path(os.environ.get("MUNET_CACHE") or home / "munet/blobs")
        return cls(directory, int(os.environ.get("MUNET_CACHE_BYTES") or DEFAULT_LIMIT_BYTES))

    def load(self, name: str, limit: int | None, fetch: Callable[[BinaryIO], None]) -> memoryview:
        """The blob of this name, mapped; `fetch` writes it to a file where it is not here yet.

        Raises TooLarge, what `fetch` raises, and CorruptBlob for bytes of another digest.
        """
        while True:
            found = self._mapped(name, limit)
            if found is not None:
                return found
            self._download(name, fetch)

    def forget(self, name: str) -> bool:
        """Remove a blob; False if it is not here."""
        try:
            (self._directory / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def _mapped(self, name: str, limit: int | None) -> memoryview | None:
        path = self._directory / name
        try:
            with atomic.open_file(path) as file:
                os.utime(file.fileno())  # the time of last use
                return map_file(file, limit)
        except FileNotFoundError:
            return None

    def _download(self, name: str, fetch: Callable[[BinaryIO], None]) -> None:
        part, path = self._directory / f"~{name}", self._directory / name
        self._directory.mkdir(parents=True, exist_ok=True)  # it may be cleared at any time
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # others who want the same blob wait here
            if not _is_at(file, part):
                return  # whoever had the lock has finished, or failed and cleaned up
            try:
                if not path.exists():
                    file.truncate(0)
                    fetch(file)
                    _require(name, file)
                    if _is_at(file, part):  # else cleared meanwhile: `load` asks again
                        os.replace(part, path)
                else:
                    part.unlink(missing_ok=True)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        self._evict()

    def _evict(self) -> None:
        """Remove the least recently used blobs beyond the limit; one process at a time."""
        with atomic.Lock(self._directory / "lock").held():
            with os.scandir(self._directory) as entries:
                blobs = [
                    (status.st_mtime, status.st_size, entry.path)
                    for entry in entries
                    if len(entry.name) == 64 and (status := _status(entry))
                ]
            excess = sum(size for _, size, _ in blobs) - self._limit_bytes
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


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
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
