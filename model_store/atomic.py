"""Files that appear whole or not at all, and survive a power cut once a call has returned.

Everything that changes a store goes through these few functions. Readers need no lock.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def create(path: Path, data: bytes, scratch: Path) -> bool:
    """Put a new file at `path`, with its bytes durable; False if one is there already.

    The bytes are first written to a temporary file in the directory `scratch`, which must be on
    the same file system. The caller syncs the directory of `path` when the name must be durable.
    """
    with _temporary(data, scratch) as temporary:
        try:
            os.link(temporary, path)  # unlike rename, never replaces what another process made
        except FileExistsError:
            return False
    return True


def replace(path: Path, data: bytes, scratch: Path) -> None:
    """Put a file at `path`, durable, in the place of any that is there."""
    with _temporary(data, scratch) as temporary:
        os.replace(temporary, path)
    sync_directory(path.parent)


def temporary_path(scratch: Path) -> Path:
    """A name in `scratch` that nothing else uses; "~" cannot occur in any other name of a store."""
    return scratch / f"~{os.getpid()}-{secrets.token_hex(8)}"


@contextmanager
def _temporary(data: bytes, scratch: Path) -> Iterator[Path]:
    """A file of these bytes, durable; its temporary name goes when the context ends.

    It is locked meanwhile, so that `abandoned` can tell it from one whose writer has died.
    """
    with _locked_file(scratch) as (path, file):
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)  # gone after a rename; on a full disk it has to go


@contextmanager
def _locked_file(scratch: Path) -> Iterator[tuple[Path, BinaryIO]]:
    while True:
        path = temporary_path(scratch)
        with path.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:  # else taken for abandoned before it was locked
                yield path, file
                return


def abandoned(scratch: Path) -> Iterator[Path]:
    """Temporary files whose writers have died; none can come to life while they are yielded."""
    for path in scratch.glob("~*"):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists():  # else its writer came to its end just now
                    yield path
        except (FileNotFoundError, BlockingIOError):
            continue


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """An advisory lock on a file, between processes and between threads; not reentrant.

    The system lets go of it when its holder dies.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def held(self, *, exclusive: bool) -> Iterator[None]:
        """Wait for the lock and hold it: alone, or together with other sharers."""
        # A descriptor of its own for each holder: flock does not tell the threads of one apart.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)
