"""Immutable bytes under their SHA-256: blobs/sha256/<hex>, as in an OCI image layout.

A blob is written once, whole, under the digest computed here from its bytes, and verified whenever
it is read. Nothing here knows what a blob means.
"""

import hashlib
import mmap
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NewType

from model_store import atomic
from model_store.errors import BlobNotFound, CorruptBlob, InvalidName

Digest = NewType("Digest", str)  # "sha256:<64 lower case hex digits>"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def parse_digest(text: object) -> Digest:
    """`text` as a digest; InvalidName if it is none."""
    if isinstance(text, str) and _DIGEST.fullmatch(text):
        return Digest(text)
    raise InvalidName(f'digest {text!r}: expected "sha256:" and 64 lower case hex digits')


def digest_of(data: bytes | memoryview) -> Digest:
    """The digest of these bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


class Blobs:
    """The blobs of a store in a local directory. Any number of processes may use it at once."""

    def __init__(self, directory: Path, scratch: Path, lock: atomic.Lock) -> None:
        self.directory = directory
        self._scratch = scratch
        self._lock = lock

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self.directory / digest.removeprefix("sha256:")

    def put(self, data: bytes) -> Digest:
        """Store bytes; nothing is written if they are there already.

        Their name is durable only after `sync`. Raises OSError where the disk does.
        """
        digest = digest_of(data)
        # Shared: gc, which holds the lock alone, cannot remove the blob between look and touch.
        with self._lock.held(exclusive=False):
            if not self.refresh([digest]):
                self._require_size(digest, len(data))
                return digest
        atomic.create(self.path(digest), data, self._scratch)
        return digest

    def refresh(self, digests: Iterable[Digest]) -> list[Digest]:
        """Restart the grace period of these blobs; returns those that are not there."""
        missing: list[Digest] = []
        for digest in digests:
            try:
                os.utime(self.path(digest))
            except FileNotFoundError:
                missing.append(digest)
        return missing

    def sync(self) -> None:
        """Make the names of all blobs put so far durable."""
        atomic.sync_directory(self.directory)

    def size(self, digest: Digest) -> int:
        """Bytes of a blob; BlobNotFound if it is not there."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise self._not_found(digest) from None

    def read(self, digest: Digest, size: int | None = None) -> memoryview:
        """A read-only mapping of a blob, verified: `size` bytes if given, and its SHA-256.

        Raises BlobNotFound or CorruptBlob, naming path and digest.
        """
        try:
            with self.path(digest).open("rb") as file:
                found = os.fstat(file.fileno()).st_size
                if size is not None:
                    self._require_size(digest, size)
                # an empty file cannot be mapped
                data = memoryview(
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if found else b""
                )
        except FileNotFoundError:
            raise self._not_found(digest) from None
        actual = digest_of(data)
        if actual != digest:
            raise CorruptBlob(
                f"blob {digest} at {self.path(digest)}: its bytes give {actual}; remove the file"
                " and put or restore the original"
            )
        return data

    def all(self) -> Iterator[os.DirEntry[str]]:
        """Every file of the blob directory that is named as a blob."""
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if _DIGEST.fullmatch("sha256:" + entry.name) and entry.is_file():
                    yield entry

    def older_than(self, age_s: float) -> Iterator[tuple[Digest, int]]:
        """(digest, bytes) of the blobs neither written nor refreshed within the last `age_s`."""
        newest = time.time() - age_s
        for entry in self.all():
            status = entry.stat()
            if status.st_mtime <= newest:
                yield Digest("sha256:" + entry.name), status.st_size

    def _require_size(self, digest: Digest, size: int) -> None:
        found = self.size(digest)
        if found != size:
            raise CorruptBlob(
                f"blob {digest} at {self.path(digest)}: {found} bytes, expected {size}; remove the"
                " file and put or restore the original"
            )

    def _not_found(self, digest: Digest) -> BlobNotFound:
        return BlobNotFound(
            f"blob {digest}: no file {self.path(digest)}; put it again or restore it from a copy"
        )
