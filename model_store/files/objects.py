"""A store in an object store: Amazon S3 and what speaks its protocol, Google Cloud, Azure.

Everything rests on conditional writes (create-only and compare-and-swap by entity tag), which
`prepare` proves the object store to have. Reads are strongly consistent on all of these.
"""

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TypeVar, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

from model_store.errors import (
    CorruptBlob,
    DamagedStore,
    LeaseLost,
    NotAFile,
    StorageError,
    UnknownFormat,
    UnsafeStorage,
    Unsure,
)
from model_store.files import leases
from model_store.files.cache import BlobCache
from model_store.files.object_clients import Clients, late_s, told
from model_store.files.protocol import (
    MARKER,
    MAX_SMALL_BYTES,
    Entry,
    Lease,
    Read,
    Small,
    TooLarge,
    Unneeded,
)

logger = logging.getLogger(__name__)

PART_BYTES = 8 * 2**20  # of one ranged read; several run at once
REQUESTS = 16  # at once
LARGE_BYTES = 2**16  # from here on it is faster to ask first whether an object is there
BULK_BYTES = 2**20
PAUSES_S = (0.2, 1.0, 5.0, None)  # between the tries of a write that compares

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Absent(Exception):
    """There is no such object. No caller of this module gets it."""


class _Present(Exception):
    """There is such an object, or it is another one by now. No caller of this module gets it."""


_MEANING: dict[type[Exception], tuple[type[Exception], ...]] = {
    _Absent: (NotFoundError, FileNotFoundError),
    _Present: (AlreadyExistsError, PreconditionError),
}


class ObjectStorage:
    """Files below a prefix of a bucket.

    As an object's time cannot be set, `touch` writes an empty object `touched/<key>`, whose time
    counts for the key's.
    """

    def __init__(self, url: str, clients: Clients, cache: BlobCache, late_s: float) -> None:
        self.url = url.rstrip("/")
        self.late_s = late_s
        self._store = clients.small
        self._bulk = clients.bulk
        self._once = clients.once
        self._cache = cache
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="model_store")
        # Of their own: who waits for a part must not take the thread that would read it.
        self._parts = ThreadPoolExecutor(REQUESTS, thread_name_prefix="model_store_part")

    @classmethod
    def open(cls, url: str) -> "ObjectStorage":
        """Connects to s3://bucket/prefix, gs://… or az://…. Raises StorageError."""
        clients = Clients.of(url)
        return cls(url, clients, BlobCache.from_environment(), late_s())

    def exists(self) -> bool:
        """Whether there is a store here."""
        return self.stat(MARKER) is not None

    def prepare(self) -> None:
        """Make sure that a store can be here. Raises UnsafeStorage or UnknownFormat."""
        if self.names("blobs"):
            raise UnknownFormat(
                f"making a store at {self.url}: expected an empty prefix, found blobs and no object"
                f" {MARKER}: a store of an earlier format, or another program's; choose another"
                " place"
            )
        probe = f"touched/probe-{secrets.token_hex(8)}"
        try:
            outcome = [self.create(probe, b"1"), self.create(probe, b"2")]
            first = self.read(probe)
            for data in (b"3", b"4"):  # the second knows a version that is out of date by then
                outcome.append(self.replace(probe, data, first.version if first else {}))
        finally:
            self.remove([probe], Unneeded())
        if outcome != [True, False, True, False]:
            raise UnsafeStorage(
                f"making a store at {self.url}: expected an object store that refuses to replace an"
                " object when If-None-Match or If-Match says so, found one that does not; several"
                " writers would lose updates: use another object store, or a local directory"
            )

    def where(self, key: str) -> str:
        """The URL of an object."""
        return f"{self.url}/{key}"

    # -- small objects

    def read(self, key: str) -> Small | None:
        """A small object; None if there is none. Raises NotAFile."""
        try:
            with self._asking("reading", key, _Absent):
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
        if len(data) >= LARGE_BYTES and self.stat(key):
            return False  # before sending all of it for nothing
        try:
            with self._asking("writing", key, _Present):
                client = self._store if len(data) < BULK_BYTES else self._bulk
                obstore.put(client, key, data, mode="create", use_multipart=False)
        except _Present:
            return False
        return True

    def settle(self, directory: str) -> None:
        """An object that was written is durable."""

    def replace(self, key: str, data: bytes, version: object) -> bool:
        """Compare and swap. Raises Unsure, where a try that was not answered may have been it."""
        mode = cast(Any, "create" if version is None else version)
        # What may have become of an object that was there: it is another one, or it is gone.
        answers = (_Present,) if version is None else (_Present, _Absent)
        for number, pause_s in enumerate(PAUSES_S):
            try:
                with self._asking("writing", key, *answers):
                    obstore.put(self._once, key, data, mode=mode, use_multipart=False)
                return True
            except (_Present, _Absent):
                if self._holds(key, data):
                    return True
                if number == 0:
                    return False  # the only try
                raise Unsure(
                    f"writing {self.where(key)}: not answered, and written by others meanwhile"
                ) from None
            except StorageError:
                if pause_s is None:
                    raise
                time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    def _holds(self, key: str, data: bytes) -> bool:
        """Whether a write that was refused had been done: by its own first try, unanswered, or
        repeated by a proxy of the network.
        """
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
        with self._asking("reading", key, _Absent):
            size = obstore.head(self._store, key)["size"]
        if limit is not None and size > limit:
            raise TooLarge(size)
        file.truncate(size)

        def part(start: int) -> None:
            with self._asking("reading", key, _Absent):
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

    def mend(self, key: str, data: memoryview) -> None:
        """Replace an object by a compare-and-swap: no deletion that may be executed late."""
        mode: Any = "create"
        with suppress(_Absent), self._asking("reading", key, _Absent):
            mode = _version(obstore.head(self._store, key))
        # Another one by now: another process has mended it, or a gc has removed it.
        with suppress(_Present, _Absent), self._asking("writing", key, _Present, _Absent):
            obstore.put(self._bulk, key, data, mode=mode, use_multipart=False)

    # -- listing and time

    def touch(self, keys: Iterable[str]) -> None:
        """Make objects count as modified now, whether or not they are there."""

        def one(key: str) -> None:
            with self._asking("writing", f"touched/{key}"):
                obstore.put(self._store, f"touched/{key}", b"")

        self._at_once(one, list(keys))

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """The bytes of each object, without those that are not there."""
        found = self._at_once(self.stat, list(keys))
        return {entry.key: entry.size for entry in found if entry}

    def stat(self, key: str) -> Entry | None:
        """Size and time of an object; None if there is none."""
        try:
            with self._asking("reading", key, _Absent):
                return _entry(key, obstore.head(self._store, key))
        except _Absent:
            return None

    def remove(self, keys: Iterable[str], lease: Lease) -> None:
        """Remove objects, with one request for each; those that are not there are passed over.

        Raises LeaseLost, or StorageError for requests that were not answered, when all have ended.
        """

        def one(key: str) -> Exception | None:
            try:
                lease.require()  # the last thing before the request
                with self._asking("removing", key, _Absent):
                    obstore.delete(self._once, key)
            except _Absent:
                pass
            except (StorageError, LeaseLost) as error:
                return error
            return None

        errors = [error for error in self._at_once(one, list(keys)) if error]
        if errors:
            raise errors[0]

    def names(self, directory: str) -> list[str]:
        """The names in a directory."""
        with self._asking("listing", directory):
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
        with self._asking("listing", prefix):
            for batch in obstore.list(self._store, prefix=prefix or None):
                for meta in batch:
                    yield _entry(meta["path"], meta)

    def tidy(self, before: float, *, dry_run: bool) -> int:
        """Remove old marks of `touch` whose objects are gone; how many."""
        there = {entry.key for entry in self._walk("blobs/")}
        marks = [entry.key for entry in self._walk("touched/") if entry.modified <= before]
        useless = [mark for mark in marks if mark.removeprefix("touched/") not in there]
        if not dry_run:
            self.remove(useless, Unneeded())
        return len(useless)

    @contextmanager
    def alone(self, purpose: str, *, wait: bool = True) -> Iterator[Lease]:
        """Be the only one, by an object that has to be renewed. Raises Taken."""
        # No request of a gc may be executed when another one has taken its lease.
        part = leases.REQUEST_PART
        late_s = self.late_s * part / (part - 1) if purpose == "gc" else 0.0
        lasts_s = max(leases.LEASE_S, late_s)
        lease = leases.ObjectLease(self, f"leases/{purpose}", lasts_s)
        lease.acquire(wait=wait)
        try:
            yield lease
        finally:
            lease.release()

    def holder(self, purpose: str) -> str | None:
        """Who has the lease; None for nobody, or one that has not renewed it while it lasts."""
        key = f"leases/{purpose}"
        seen, entry = self.read(key), self.stat(key)
        if seen is None or entry is None or time.time() - entry.modified > leases.LEASE_S:
            return None
        return leases.holder_in(seen.data)

    # -- helpers

    def _at_once(
        self, function: Callable[[_Item], _Result], items: Sequence[_Item]
    ) -> list[_Result]:
        if len(items) < 2:
            return [function(item) for item in items]
        return list(self._pool.map(function, items))

    @contextmanager
    def _asking(self, doing: str, key: str, *answers: type[Exception]) -> Iterator[None]:
        """Around one request. Raises `_Absent` or `_Present` where that is one of the answers that
        such a request may get, and StorageError for everything else that is no success.
        """
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            for answer, errors in _MEANING.items():
                if answer in answers and isinstance(error, errors):
                    raise answer(self.where(key)) from None
            raise StorageError(f"{doing} {self.where(key)}: {told(error)}") from None


def _version(meta: Any) -> dict[str, str]:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}


def _entry(key: str, meta: Any) -> Entry:
    return Entry(key, meta["size"], meta["last_modified"].timestamp())


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
