"""Local files that appear whole or not at all, and survive a power cut once a call has returned.

Everything that changes a local store goes through these few functions. Readers need no lock.
"""

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from model_store.errors import NotAFile
from model_store.files.protocol import Lease, Taken, holder_told, this_process

_READABLE = stat.S_IRUSR | stat.S_IXUSR
LOOKED_AT_S = 0.05  # longer than it takes to look who has a lock


@dataclass(frozen=True, slots=True)
class Permissions:
    """Those of a store's own folder, which everything in it gets: who may use a store may use all
    of it, with any umask of the process that wrote a file.
    """

    mode: int
    owner: int
    group: int

    @classmethod
    def of(cls, folder: Path) -> "Permissions":
        """The folder's, which has to be there.

        Raises PermissionError for one that its owner may not read: somebody has closed it, perhaps
        for a moment, and what root made in it meanwhile would stay unreadable.
        """
        found = folder.stat()
        if found.st_mode & _READABLE != _READABLE:
            what = (
                f"closed by its permissions ({found.st_mode & 0o777:o}), nothing is written there"
            )
            raise PermissionError(errno.EACCES, what, str(folder))
        return cls(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)

    def give(self, file: int | Path) -> None:
        """To a file or a folder that was just made; what the system does not allow is left out."""
        folder = isinstance(file, Path)
        with suppress(OSError):  # of a group that the writer is not in
            os.chown(file, self.owner if os.geteuid() == 0 else -1, self.group)
        with suppress(OSError):  # no file system of Unix
            os.chmod(file, self.mode & (0o2777 if folder else 0o666))


def make_folders(folder: Path, within: Path) -> None:
    """Make a folder, and those on the way to it, below one whose permissions they get."""
    for path in reversed([folder, *folder.parents]):
        if path.is_relative_to(within) and path != within:
            try:
                path.mkdir()
            except FileExistsError:
                continue
            Permissions.of(within).give(path)


def create(path: Path, data: bytes | memoryview, scratch: Path, like: Path) -> bool:
    """Put a new file at `path`, with its bytes durable; False if one is there already.

    The bytes are first written to a temporary file in the directory `scratch`, which must be on
    the same file system; it gets the permissions of the folder `like`. The caller syncs the
    directory of `path` when the name must be durable.
    """
    with written(data, scratch, like) as temporary:
        try:
            os.link(temporary, path)  # unlike rename, never replaces what another process made
        except FileExistsError:
            return False
    return True


@contextmanager
def written(data: bytes | memoryview, scratch: Path, like: Path) -> Iterator[Path]:
    """A temporary file of these bytes, durable, to be given its name; gone at the end.

    It has the permissions of the folder `like`, and is locked meanwhile, so that `abandoned` can
    tell it from one whose writer has died.
    """
    with _locked_file(scratch) as (path, file):
        try:
            Permissions.of(like).give(file.fileno())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            yield path
        finally:
            with suppress(OSError):  # gone after a rename; one that stays is a gc's to remove
                path.unlink()


@contextmanager
def _locked_file(scratch: Path) -> Iterator[tuple[Path, BinaryIO]]:
    while True:
        path = temporary_path(scratch)
        with path.open("xb") as file, locked(file.fileno()):
            if os.fstat(file.fileno()).st_nlink:  # else taken for abandoned before it was locked
                yield path, file
                return


def temporary_path(scratch: Path) -> Path:
    """A name in `scratch` that nothing else uses; "~" cannot occur in any other name of a store."""
    return scratch / f"~{os.getpid()}-{secrets.token_hex(8)}"


@contextmanager
def locked(descriptor: int, *, wait: bool = True) -> Iterator[None]:
    """Wait for the lock on an open file and hold it; the system lets go when the holder dies.

    Without `wait`, raises Taken if somebody else holds it.
    """
    if wait:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    else:
        _lock_now(descriptor)
    try:
        yield
    finally:
        # Closing is not enough: a process forked meanwhile has the descriptor too.
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _lock_now(descriptor: int) -> None:
    """Raises Taken if somebody has the lock, and does not merely look who has it."""
    until = time.monotonic() + LOOKED_AT_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise Taken from None
        time.sleep(LOOKED_AT_S / 10)


def abandoned(scratch: Path) -> Iterator[Path]:
    """Temporary files whose writers have died, each one locked while it is yielded: what is removed
    then cannot come to life.
    """
    for path in scratch.glob("~*"):
        try:
            with open_file(path) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists():  # else its writer came to its end just now
                    yield path
        except (FileNotFoundError, BlockingIOError, NotAFile):
            continue


def open_file(path: Path) -> BinaryIO:
    """Open a plain file for reading, and nothing else: no link to elsewhere, no pipe to wait for.

    Raises FileNotFoundError, or NotAFile.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise NotAFile(
                f"{path}: a link or a device, expected a plain file; remove it"
            ) from None
        if error.errno == errno.ENOTDIR:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a directory" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise NotAFile(f"{path}: {kind}, expected a plain file; remove it")
    return os.fdopen(descriptor, "rb", buffering=0)


def open_or_make(path: Path, like: Path) -> int:
    """A descriptor of a file, to read and write; one that is made gets the folder's permissions."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            pass
        with suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            Permissions.of(like).give(descriptor)
            return descriptor


def is_at(descriptor: int, path: Path) -> bool:
    """Whether a path leads to this very open file still."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return False


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(folder: Path, names: Iterable[str], lease: Lease) -> list[OSError]:
    """Remove files of a folder, durably, all that can be; what the others end with.

    They are removed from the very folder that was there when the lease was looked at, never from
    one that is put in its place meanwhile. Raises LeaseLost.
    """
    errors: list[OSError] = []
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lease.require()  # after the folder was opened
        for name in names:
            try:
                os.unlink(name, dir_fd=descriptor)
            except FileNotFoundError:
                continue
            except OSError as error:
                errors.append(OSError(error.errno, error.strerror, str(folder / name)))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return errors


class Lock:
    """An advisory lock on a file, between processes and between threads; not reentrant.

    The system lets go of it when its holder dies.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def held(self, *, wait: bool = True, named: bool = False) -> Iterator[int]:
        """Wait for the lock and hold it alone; without `wait`, raises Taken if it is held.

        `named`: those who find it taken are told by whom. Yields the descriptor of the file that is
        locked. A lock is of a file, not of its name: where somebody has removed the file meanwhile,
        or put another one in its place, the lock is taken on the file that is there now.
        """
        with self._acquired(wait) as descriptor:
            if named:
                with suppress(OSError):  # a full disk
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, this_process().encode(), 0)
            yield descriptor

    @contextmanager
    def _acquired(self, wait: bool) -> Iterator[int]:
        while True:
            # A descriptor of its own for each holder: flock does not tell the threads of one apart.
            with self._no_link():
                descriptor = open_or_make(self._path, self._path.parent)
            with ExitStack() as stack:
                stack.callback(os.close, descriptor)
                try:
                    stack.enter_context(locked(descriptor, wait=wait))
                except Taken:
                    raise Taken(holder_told(os.pread(descriptor, 200, 0))) from None
                if is_at(descriptor, self._path):
                    yield descriptor
                    return

    def holder(self) -> str | None:
        """Who has it, as far as they said; None for nobody.

        It is tried for an instant, shared: who wants it alone tries for longer (LOOKED_AT_S).
        """
        try:
            with self._no_link():
                descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return holder_told(os.pread(descriptor, 200, 0))
        finally:
            os.close(descriptor)
        return None

    @contextmanager
    def _no_link(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotAFile(f"{self._path}: a link, expected a lock; remove it") from None
            raise
