"""A store in an object store: Amazon S3 and what speaks its protocol, Google Cloud, Azure.

Everything rests on conditional writes (create-only and compare-and-swap by entity tag), which
`prepare` proves the object store to have. Reads are strongly consistent on all of these.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import from_url

from model_store.cache import BlobCache
from model_store.errors import (
    CorruptBlob,
    DamagedStore,
    NotAFile,
    StorageError,
    UnsafeStorage,
)
from model_store.leases import ObjectLease
from model_store.storage import MAX_SMALL_BYTES, Entry, Lease, Read, Small, TooLarge

logger = logging.getLogger(__name__)

PART_BYTES = 8 * 2**20  # of one ranged read; several run at once
REQUESTS = 16  # at once
REQUEST_TIMEOUT_S = 30
BULK_TIMEOUT_S = 3600  # of one that moves the bytes of a blob
BULK_BYTES = 2**20
MESSAGE_CHARACTERS = 500
RETRIES = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}  # of 5xx and lost connections

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Absent(Exception):
    """There is no such object."""


class _Present(Exception):
    """There is such an object, or it is another one by now."""


class ObjectStorage:
    """Files below a prefix of a bucket.

    As an object's time cannot be set, `touch` writes an empty object `touched/<key>`, whose time
    counts for the key's.
    """

    def __init__(self, url: str, store: Any, bulk: Any, cache: BlobCache) -> None:
        """`store` and `bulk` are obstore's clients for small and for large objects."""
        self.url = url.rstrip("/")
        self._store = store
        self._bulk = bulk
        self._cache = cache
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="model_store")
        # Of their own: who waits for a part must not take the thread that would read it.
        self._parts = ThreadPoolExecutor(REQUESTS, thread_name_prefix="model_store_part")

    @classmethod
    def open(cls, url: str) -> "ObjectStorage":
        """Connects to s3://bucket/prefix, gs://… or az://…. Raises StorageError."""
        try:
            small, bulk = _client(url, REQUEST_TIMEOUT_S), _client(url, BULK_TIMEOUT_S)
        except (BaseError, ValueError, TypeError) as error:
            raise StorageError(f"opening the store {url}: {_one_line(error)}") from None
        return cls(url, small, bulk, BlobCache.from_environment())

    def exists(self) -> bool:
        """Whether there is a store here: whoever makes one writes its log of changes first."""
        return self.stat("refs/changes") is not None or bool(self.names("refs/tasks"))

    def prepare(self) -> None:
        """Make an empty store, unless there is one. Raises UnsafeStorage."""
        if self.exists():
            return
        probe = f"touched/probe-{secrets.token_hex(8)}"
        try:
            outcome = [self.create(probe, b"1"), self.create(probe, b"2")]
            first = self.read(probe)
            for data in (b"3", b"4"):  # the second knows a version that is out of date by then
                outcome.append(self.replace(probe, data, first.version if first else {}))
        finally:
            self.remove([probe])
        if outcome != [True, False, True, False]:
            raise UnsafeStorage(
                f"making a store at {self.url}: expected an object store that refuses to replace an"
                " object when If-None-Match or If-Match says so, found one that does not; several"
                " writers would lose updates: use another object store, or a local directory"
            )

    def where(self, key: str) -> str:
        """The URL of an object."""
        return f"{self.url}/{key}"

    def file(self, key: str) -> Path | None:
        """Objects are no files."""
        return None

    # -- small objects

    def read(self, key: str) -> Small | None:
        """A small object; None if there is none. Raises NotAFile."""
        try:
            with self._failing("reading", key):
                result = obstore.get(self._store, key)
                if result.meta["size"] > MAX_SMALL_BYTES:
                    raise NotAFile(
                        f"{self.where(key)}: {result.meta['size']} bytes, expected a small file of"
                        f" at most {MAX_SMALL_BYTES}; remove it"
                    )
                return Small(bytes(result.bytes()), _version(result.meta))
        except _Absent:
            return None

    def read_many(self, keys: Iterable[str]) -> dict[str, Read]:
        """What `read` gives or raises for each key, many at once."""

        def one(key: str) -> Read:
            try:
                return self.read(key)
            except (DamagedStore, StorageError) as error:
                return error

        wanted = list(keys)
        return dict(zip(wanted, self._at_once(one, wanted), strict=True))

    def create(self, key: str, data: bytes | memoryview) -> bool:
        """Write a new object; False, changing nothing, if there is one already."""
        try:
            with self._failing("writing", key):
                client = self._store if len(data) < BULK_BYTES else self._bulk
                obstore.put(client, key, data, mode="create", use_multipart=False)
        except _Present:
            return False
        return True

    def link(self, key: str, file: Path, data: memoryview) -> bool:
        """Objects cannot be links."""
        return False

    def settle(self, directory: str) -> None:
        """An object that was written is durable."""

    def replace(self, key: str, data: bytes, version: object) -> bool:
        """Compare and swap."""
        if version is None:
            return self.create(key, data) or self._holds(key, data)
        try:
            with self._failing("writing", key):
                mode = cast(Any, version)
                obstore.put(self._store, key, data, mode=mode, use_multipart=False)
        except (_Present, _Absent):
            return self._holds(key, data)
        return True

    def _holds(self, key: str, data: bytes) -> bool:
        """Whether a write that was refused had been done: by its own first try, unanswered."""
        current = self.read(key)
        return current is not None and current.data == data

    # -- immutable objects

    def load(self, key: str, limit: int | None) -> memoryview | None:
        """An immutable object, out of the cache; None if there is none. Raises TooLarge or
        CutShort.
        """

        def fetch(file: BinaryIO) -> None:
            self._fetch(key, limit, file)

        try:
            return self._cache.load(key.rpartition("/")[2], limit, fetch)
        except CorruptBlob as error:
            raise CorruptBlob(f"{error} ({self.where(key)})") from None
        except _Absent:
            return None

    def forget(self, key: str) -> bool:
        """Drop the cached copy, if there is one."""
        return self._cache.forget(key.rpartition("/")[2])

    def _fetch(self, key: str, limit: int | None, file: BinaryIO) -> None:
        """Write an object into a file, in parts that come at once. Raises _Absent or TooLarge."""
        with self._failing("reading", key):
            size = obstore.head(self._store, key)["size"]
        if limit is not None and size > limit:
            raise TooLarge(size)
        file.truncate(size)

        def part(start: int) -> None:
            with self._failing("reading", key):
                end = min(start + PART_BYTES, size)
                data = obstore.get_range(self._bulk, key, start=start, end=end)
                _write_at(file.fileno(), memoryview(data), start)

        parts = [self._parts.submit(part, start) for start in range(0, size, PART_BYTES)]
        # All of them, before the file is closed: its descriptor may be another's then.
        wait(parts, return_when=FIRST_EXCEPTION)
        for future in parts:
            future.cancel()
        wait(parts)
        for future in parts:
            future.result()

    # -- listing and time

    def touch(self, keys: Iterable[str]) -> dict[str, int]:
        """Make objects count as modified now; the bytes of each, without those not there."""

        def one(key: str) -> int | None:
            with self._failing("writing", f"touched/{key}"):
                obstore.put(self._store, f"touched/{key}", b"")
            entry = self.stat(key)
            return entry.size if entry else None

        wanted = list(keys)
        sizes = zip(wanted, self._at_once(one, wanted), strict=True)
        return {key: size for key, size in sizes if size is not None}

    def stat(self, key: str) -> Entry | None:
        """Size and time of an object; None if there is none."""
        try:
            with self._failing("reading", key):
                return _entry(key, obstore.head(self._store, key))
        except _Absent:
            return None

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are passed over."""

        def one(key: str) -> None:
            try:
                with self._failing("removing", key):
                    obstore.delete(self._store, key)
            except _Absent:
                pass

        self._at_once(one, list(keys))

    def names(self, directory: str) -> list[str]:
        """The names in a directory."""
        with self._failing("listing", directory):
            found = obstore.list_with_delimiter(self._store, prefix=f"{directory}/")
        paths = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        return [path.rstrip("/").rpartition("/")[2] for path in paths]

    def walk(self, directory: str) -> Iterator[Entry]:
        """Every object below a directory, at the time it was written or touched."""
        prefix = f"{directory}/" if directory else ""
        touched = {e.key.removeprefix("touched/"): e for e in self._walk(f"touched/{prefix}")}
        for entry in self._walk(prefix):
            mark = touched.get(entry.key)
            if mark and mark.modified > entry.modified:
                entry = Entry(entry.key, entry.size, mark.modified)
            yield entry

    def _walk(self, prefix: str) -> Iterator[Entry]:
        with self._failing("listing", prefix):
            for batch in obstore.list(self._store, prefix=prefix or None):
                for meta in batch:
                    yield _entry(meta["path"], meta)

    def tidy(self, before: float, *, dry_run: bool) -> int:
        """Remove old marks of `touch` whose objects are gone; how many."""
        there = {entry.key for entry in self._walk("blobs/")}
        marks = [entry.key for entry in self._walk("touched/") if entry.modified <= before]
        useless = [mark for mark in marks if mark.removeprefix("touched/") not in there]
        if not dry_run:
            self.remove(useless)
        return len(useless)

    @contextmanager
    def alone(self, purpose: str, *, wait: bool = True) -> Iterator[Lease]:
        """Be the only one, by an object that has to be renewed. Raises Taken."""
        lease = ObjectLease(self, f"leases/{purpose}")
        lease.acquire(wait=wait)
        try:
            yield lease
        finally:
            lease.release()

    # -- helpers

    def _at_once(
        self, function: Callable[[_Item], _Result], items: Sequence[_Item]
    ) -> list[_Result]:
        if len(items) < 2:
            return [function(item) for item in items]
        return list(self._pool.map(function, items))

    @contextmanager
    def _failing(self, doing: str, key: str) -> Iterator[None]:
        """Turns the errors of obstore into those of files, and all others into StorageError."""
        try:
            yield
        except (NotFoundError, FileNotFoundError):
            raise _Absent(self.where(key)) from None
        except (AlreadyExistsError, PreconditionError):
            raise _Present(self.where(key)) from None
        except BaseError as error:
            raise StorageError(f"{doing} {self.where(key)}: {_one_line(error)}") from None


def _client(url: str, timeout_s: int) -> Any:
    options = {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=10),
        "timeout": timedelta(seconds=timeout_s),
    }
    return from_url(url, client_options=cast(Any, options), retry_config=cast(Any, RETRIES))


def _one_line(error: Exception) -> str:
    """What obstore says, without its many lines of debugging."""
    text = " ".join(str(error).split("\n\nDebug source")[0].split())
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[:MESSAGE_CHARACTERS]}…"


def _version(meta: Any) -> dict[str, str]:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}


def _entry(key: str, meta: Any) -> Entry:
    return Entry(key, meta["size"], meta["last_modified"].timestamp())


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
