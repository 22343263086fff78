"""A store in a local directory, on one file system that has hard links and `flock`."""

import errno
import mmap
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from model_store.errors import DamagedStore, NotAFile, StoreNotFound, UnknownFormat
from model_store.files import atomic
from model_store.files.ballast import FULL, Reserve
from model_store.files.leases import FileLease
from model_store.files.protocol import (
    MARKER,
    MAX_SMALL_BYTES,
    CutShort,
    Entry,
    Lease,
    Read,
    Small,
    TooLarge,
)

LISTS = 5  # most of one directory, one after the other
TICK_NS = 20_000_000  # changes of a directory that are closer to each other may have one time
PAGED_BYTES = 2**16  # from here on memory comes in pages of its own, which go back at once
_DIRECTORIES = (
    "tmp",
    "lock.agents",
    "refs/tasks",
    "refs/agents",
    "refs/pins",
    "refs/signatures",
    "copies/tasks",
    "copies/agents",
    "copies/pins",
    "copies/signatures",
    "blobs/sha256",
)


class LocalStorage:
    """Files of a directory. Compare-and-swap is a rename under a lock of the operating system,
    which goes when its holder dies; all else needs no lock.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self.url = str(self._root)
        self.late_s = 0.0  # the system executes a call before it returns, or never
        self._scratch = self._root / "tmp"
        self._lock = atomic.Lock(self._root / "lock")
        self._reserve = Reserve(self._root)
        self._settled = False
        self._opened: int | None = None  # the marker's file of the store that is written to

    def exists(self) -> bool:
        """Whether there is a store here, and not only what a lost disk left of it."""
        return (self._root / MARKER).exists() and (self._root / "refs/tasks").is_dir()

    def prepare(self) -> None:
        """Make the folders of a store. Raises UnknownFormat where there is something else."""
        blobs = self._root / "blobs/sha256"
        marked = (self._root / MARKER).exists()  # a store that has lost its folders
        if not marked and blobs.is_dir() and any(blobs.iterdir()):
            raise UnknownFormat(
                f"making a store at {self.url}: expected an empty folder or none, found blobs"
                f" and no file {MARKER}: a store of an earlier format, or another program's folder;"
                " choose another place"
            )
        self._root.mkdir(parents=True, exist_ok=True)
        for name in _DIRECTORIES:
            atomic.make_folders(self._root / name, self._root)
        root = self._root
        for name in ("lock", "lock.gc"):  # a full disk may have no room for their names
            os.close(atomic.open_or_make(root / name, root))
        self._settle_place()

    def _settle_place(self) -> None:
        """Make the names of the store and of its folders durable: once, no matter who made them."""
        if self._settled:
            return
        root = self._root
        for directory in (root / "blobs", root / "refs", root / "copies", root, root.parent):
            with suppress(FileNotFoundError, PermissionError):
                atomic.sync_directory(directory)
        self._settled = True

    def where(self, key: str) -> str:
        """The path of a file."""
        return str(self._root / key)

    def read(self, key: str) -> Small | None:
        """A small file; None if there is none. Raises NotAFile."""
        path = self._root / key
        try:
            with atomic.open_file(path) as file:
                # Asked for the whole limit, Python would allocate that much for every ref.
                size = os.fstat(file.fileno()).st_size
                data = file.read(min(size, MAX_SMALL_BYTES) + 1)
        except FileNotFoundError:
            return None
        if len(data) > MAX_SMALL_BYTES:
            raise NotAFile(
                f"{path}: over {MAX_SMALL_BYTES} bytes, expected a small file; remove it"
            )
        return Small(data, data)

    def read_many(self, keys: Iterable[str]) -> dict[str, Read]:
        """What `read` gives or raises for each key."""
        found: dict[str, Read] = {}
        for key in keys:
            try:
                found[key] = self.read(key)
            except (DamagedStore, OSError) as error:
                found[key] = error
        return found

    def load(self, key: str, limit: int | None) -> memoryview | None:
        """The bytes of a file; None if there is none. Raises NotAFile, TooLarge or CutShort."""
        try:
            with atomic.open_file(self._root / key) as file:
                return read_file(file, limit)
        except FileNotFoundError:
            return None

    def forget(self, key: str) -> bool:
        """There are no copies."""
        return False

    def create(self, key: str, data: bytes | memoryview) -> bool:
        """Write a new file; False, changing nothing, if there is one already."""
        path = self._root / key
        if os.path.lexists(path):
            return False  # before writing all of it for nothing
        self._require_directories(path.parent)
        return atomic.create(path, data, self._scratch, self._root)

    def settle(self, directory: str) -> None:
        """Make the names in a directory durable."""
        self._settle_place()
        atomic.sync_directory(self._root / directory)

    def replace(self, key: str, data: bytes, version: object) -> bool:
        """Compare and swap. Raises NotAFile."""
        path = self._root / key
        self._require_directories(path.parent)
        try:
            with self._written(data) as temporary, self._lock.held():
                done = self._swap(temporary, key, version)
                self._reserve.fill()
        except OSError as error:
            # A new document takes room for good: to empty a disk, none is needed.
            if error.errno not in FULL or (version is None and key.startswith("refs/")):
                raise
            done = self._replace_on_full_disk(key, data, version, error)
        if done:
            self.settle(key.rpartition("/")[0])
        return done

    def _replace_on_full_disk(self, key: str, data: bytes, version: object, full: OSError) -> bool:
        """As `replace`, in the room of the reserve; raises the error where that is not enough."""
        with self._lock.held():
            self.tidy(0, dry_run=False)
            try:
                for _ in self._reserve.given(len(data)):
                    try:
                        with self._written(data) as temporary:
                            return self._swap(temporary, key, version)
                    except OSError as error:
                        if error.errno not in FULL:
                            raise
                raise full
            finally:
                self._reserve.fill()

    def _written(self, data: bytes | memoryview) -> AbstractContextManager[Path]:
        return atomic.written(data, self._scratch, self._root)

    def _swap(self, temporary: Path, key: str, version: object) -> bool:
        """Give a file its name if it has the place of this version; under the lock."""
        self._require_same_store()  # after the file was written: it can only be renamed in there
        current = self.read(key)
        if (current.version if current else None) != version:
            return False
        os.replace(temporary, self._root / key)
        if key == MARKER:
            self._opened = None
        return True

    def _require_same_store(self) -> None:
        """All documents that this process writes are of one store, known by its marker's file.

        Raises StoreNotFound where another store has been put in its place: half of a change must
        not go into one of them, and half into the other.
        """
        try:
            there = os.stat(self._root / MARKER, follow_symlinks=False).st_ino
        except FileNotFoundError:
            raise self._gone() from None
        if self._opened not in (None, there):
            raise StoreNotFound(
                f"store {self.url}: another one was put in its place (its file {MARKER} is another"
                " one): expected the one that was opened; nothing was written: open it again"
            )
        self._opened = there

    def _gone(self) -> StoreNotFound:
        return StoreNotFound(
            f"store {self.url}: it was there, and is no longer: expected the file"
            f" {MARKER}, found none; mount or restore it"
        )

    def mend(self, key: str, data: memoryview) -> None:
        """Replace a file of any kind; a folder is an OSError."""
        path = self._root / key
        self._require_directories(path.parent)
        with self._written(data) as temporary:
            os.replace(temporary, path)
        self.settle(key.rpartition("/")[0])

    def touch(self, keys: Iterable[str]) -> None:
        """Make files count as modified now; those that are not there are passed over."""
        for key in keys:
            with suppress(FileNotFoundError):
                os.utime(self._root / key, follow_symlinks=False)

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """The bytes of each file, without those that are not there."""
        return {entry.key: entry.size for entry in map(self.stat, keys) if entry}

    def stat(self, key: str) -> Entry | None:
        """Size and time of a file; None if there is none."""
        try:
            status = os.lstat(self._root / key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(key, status.st_size, status.st_mtime)

    def remove(self, keys: Iterable[str], lease: Lease) -> None:
        """Remove files, durably; those that are not there are passed over.

        They are removed from the very folder that was there when the lease was looked at: never
        from one that is put in its place meanwhile. One that cannot be removed keeps none of the
        others: its OSError is raised at the end.
        """
        names: defaultdict[Path, list[str]] = defaultdict(list)
        for key in keys:
            path = self._root / key
            names[path.parent].append(path.name)
        errors = [e for folder in names for e in atomic.remove(folder, names[folder], lease)]
        if errors:
            raise errors[0]

    def names(self, directory: str) -> list[str]:
        """The names in a directory."""
        try:
            return [entry.name for entry in self._entries(directory)]
        except NotADirectoryError:
            return []

    def walk(self, directory: str) -> Iterator[Entry]:
        """Every file below a directory; links are listed and not followed."""
        waiting = [directory]  # no recursion: a hostile store may be deeper than Python's stack
        while waiting:
            directory = waiting.pop()
            for entry in self._entries(directory):
                key = f"{directory}/{entry.name}" if directory else entry.name
                try:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(key)
                    else:
                        status = entry.stat(follow_symlinks=False)
                        yield Entry(key, status.st_size, status.st_mtime)
                except FileNotFoundError:
                    continue  # removed since it was listed

    def _entries(self, directory: str) -> "list[os.DirEntry[str]]":
        """What is in a directory, by name, with all that was there all the time.

        Some file systems (tmpfs, btrfs) leave a name out of a list while its file is replaced. So a
        directory that changed meanwhile, or may have, as it changed just before, is listed again.
        """
        path, found = self._root / directory, dict[str, os.DirEntry[str]]()
        try:
            for _ in range(LISTS):
                began, before = time.time_ns(), os.stat(path).st_mtime_ns
                with os.scandir(path) as entries:
                    found.update((entry.name, entry) for entry in entries)
                if os.stat(path).st_mtime_ns == before < began - TICK_NS:
                    break
            return [found[name] for name in sorted(found)]
        except FileNotFoundError:
            return []
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # deeper than a path can say
                return []
            raise

    @contextmanager
    def alone(self, purpose: str, *, wait: bool = True) -> Iterator[Lease]:
        """Be the only one, by a lock that goes when its holder dies. Raises Taken."""
        path = self._root / f"lock.{purpose}"
        self._require_directories(path.parent)
        with atomic.Lock(path).held(wait=wait, named=True) as descriptor:
            yield FileLease(descriptor, path)

    def holder(self, purpose: str) -> str | None:
        """Who has the lock; None for nobody."""
        return atomic.Lock(self._root / f"lock.{purpose}").holder()

    def tidy(self, before: float, *, dry_run: bool) -> int:
        """Remove temporary files whose writers have died; how many."""
        count = 0
        for path in atomic.abandoned(self._scratch):
            count += 1
            if not dry_run:
                path.unlink(missing_ok=True)
        return count

    def _require_directories(self, directory: Path) -> None:
        """What is written needs these; a copy of a store may lack folders that were empty.

        Raises StoreNotFound: where the store has gone, as with an unmounted disk, nothing is made.
        """
        for one in (directory, self._scratch):
            if one.is_symlink():
                raise NotAFile(f"{one}: a link, expected a directory; nothing is written there")
            if not one.is_dir():
                if one != self._root and not self.exists():
                    raise self._gone()
                atomic.make_folders(one, self._root)
                atomic.sync_directory(one.parent)


def read_file(file: BinaryIO, limit: int | None) -> memoryview:
    """The bytes of an open file, read into memory of our own, read-only.

    Never mapped: who cuts a mapped file short kills all that look at it. What is read here stays as
    it is, also if the file changes. Raises TooLarge, also for more than this process may have,
    and CutShort for a file that became shorter meanwhile.
    """
    size = os.fstat(file.fileno()).st_size
    if limit is not None and size > limit:
        raise TooLarge(size)
    buffer = _memory(size)
    read = 0
    while read < size and (count := file.readinto(buffer[read:])):  # pyright: ignore[reportAttributeAccessIssue]
        read += count
    if read < size:
        raise CutShort(read, size)
    return buffer.toreadonly()


def _memory(size: int) -> memoryview:
    """Memory of `size` bytes. Raises TooLarge."""
    try:
        if size < PAGED_BYTES:
            return memoryview(bytearray(size))
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (MemoryError, OSError):
        raise TooLarge(size) from None
    if hasattr(mmap, "MADV_HUGEPAGE"):  # 4 KiB at a time, the system takes longer than the disk
        with suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)
