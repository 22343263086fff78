"""Room that a store in a local directory keeps for itself, so that a full disk can be emptied.

To remove a version or to collect garbage, small files have to be written before any byte is free.
So a store has a file `reserve`. A small write that finds the disk full cuts that file by what it
needs, is made again, and lets the file take back what is free: what is replaced gives its own
room back. All of this is done under the store's lock. The bytes are random, so that no file system
compresses them or leaves them out. A store without this file works as well, until the disk is full.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from model_store.errors import NotAFile
from model_store.files import atomic

NAME = "reserve"
SIZE = 2**21  # bytes; the file of a gc that removes 8,000 blobs takes a third
FULL = (errno.ENOSPC, errno.EDQUOT)  # what writing to a full disk, or beyond a quota, ends with
_BLOCKS = 2**14  # bytes that a new file may take besides its own, in blocks and folders


class Reserve:
    """The file. Only who holds the store's lock may use it. Where it cannot be written, or is not
    a plain file of this store alone, nothing happens: what is written matters more.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / NAME

    def given(self, size: int) -> Iterator[None]:
        """Give back room for a file of `size` bytes; then more each time, until there is none left.

        More, because any process may take what is given back.
        """
        wanted = size + _BLOCKS
        while self._cut(wanted):
            yield
            wanted *= 2

    def _cut(self, wanted: int) -> bool:
        with suppress(OSError, NotAFile), self._opened() as (descriptor, size):
            if size:
                os.ftruncate(descriptor, max(0, size - wanted))
                os.fsync(descriptor)  # some file systems free nothing before
                return True
        return False

    def fill(self) -> None:
        """Make the file whole, as far as there is room. A new one takes no more than half of it."""
        with suppress(OSError, NotAFile):
            if not os.path.lexists(self._path):
                disk = os.statvfs(self._root)
                if disk.f_bavail * disk.f_frsize < 2 * SIZE:
                    return
                os.close(atomic.open_or_make(self._path, self._root))
            if os.lstat(self._path).st_size < SIZE:
                self._extend()

    def _extend(self) -> None:
        with self._opened() as (descriptor, size):
            try:
                while size < SIZE:
                    size += os.pwrite(descriptor, os.urandom(SIZE - size), size)
            finally:  # what a full disk had room for is durable too
                os.fsync(descriptor)

    @contextmanager
    def _opened(self) -> Iterator[tuple[int, int]]:
        """Descriptor and bytes. Raises OSError or NotAFile."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise NotAFile(f"{self._path}: expected a plain file of this store alone")
            yield descriptor, found.st_size
        finally:
            os.close(descriptor)
