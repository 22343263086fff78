"""Where the files of a store lie: a local directory or an object store, behind one small protocol.

A key is the path of a file inside the store, such as `refs/tasks/cmaterdb%2Fbangla`. Nothing
here knows what a file means. `LocalStorage` (local.py) and `ObjectStorage` (objects.py) implement
the protocol; `open_storage` (opening.py) picks one by the form of a URL.
"""

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from model_store.errors import DamagedStore, StorageError

MARKER = "munet-store"  # the file that makes a place a store
MAX_SMALL_BYTES = 2**23  # of what `read` takes: a document of 60,000 versions


@dataclass(frozen=True, slots=True)
class Small:
    """A small file as it was read."""

    data: bytes
    version: object  # equal for as long as the file stays the same; what `replace` compares


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing tells of a file."""

    key: str
    size: int  # bytes
    modified: float  # when it was last written or touched: seconds, by the storage's own clock


# What became of one read: the file, why it cannot be read, or None for no such file.
Read = Small | DamagedStore | StorageError | OSError | None


class TooLarge(Exception):
    """A file is larger than its reader was ready to take."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes")
        self.size = size


class CutShort(Exception):
    """A file became shorter while it was read."""

    def __init__(self, found: int, expected: int) -> None:
        super().__init__(f"{found} bytes could be read of {expected}: it was cut short meanwhile")


class Taken(Exception):
    """Somebody else is alone at what was asked for; the text says who, as `holder_told` does."""


def this_process() -> str:
    """Who this is, for those who find something taken."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"process {os.getpid()} on {socket.gethostname()} since {now}"


def holder_told(text: bytes) -> str:
    """What `this_process` said elsewhere, fit to be shown."""
    shown = "".join(c for c in text[:200].decode(errors="replace") if c.isprintable())
    return shown or "unknown"


class Lease(Protocol):
    """The right to be the only one at something."""

    def renew(self) -> None:
        """Call this often: cheap, as it writes only now and then. Raises LeaseLost."""
        ...

    def require(self) -> None:
        """Just before a request that only the holder may make. Raises LeaseLost."""
        ...

    def unanswered(self) -> AbstractContextManager[None]:
        """Around requests that must all be answered before somebody else may be alone."""
        ...


class Unneeded:
    """A lease for what anybody may do, and where the system's lock cannot be lost."""

    def renew(self) -> None:
        """Nothing to do."""

    def require(self) -> None:
        """Nothing to do."""

    def unanswered(self) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()


class Storage(Protocol):
    """The files of one store. Any number of processes on any number of machines may use it.

    What is written appears whole or not at all, and a read sees all writes that have returned.
    Where the disk or the network fails, OSError or StorageError comes through.
    """

    url: str
    late_s: float  # a request that was not answered is executed no later than so long after it

    def exists(self) -> bool:
        """Whether there is a store here."""
        ...

    def prepare(self) -> None:
        """Make an empty store, unless there is one. Raises UnsafeStorage where none can be."""
        ...

    def where(self, key: str) -> str:
        """The path or URL of a file, for messages."""
        ...

    def read(self, key: str) -> Small | None:
        """A small file; None if there is none. Raises NotAFile for what is no small plain file."""
        ...

    def read_many(self, keys: Iterable[str]) -> dict[str, Read]:
        """What `read` gives or raises for each key, at once where that is faster.

        One that fails in any way takes nothing from the others.
        """
        ...

    def load(self, key: str, limit: int | None) -> memoryview | None:
        """A file that never changes, read into memory; None if there is none.

        Raises NotAFile, TooLarge for one of more than `limit` bytes, or CutShort for one that does
        change.
        """
        ...

    def forget(self, key: str) -> bool:
        """Drop a local copy that turned out wrong; False if `load` reads the file itself."""
        ...

    def create(self, key: str, data: bytes | memoryview) -> bool:
        """Write a new file; False, changing nothing, if there is one already.

        Its bytes are durable on return, its name after `settle` only.
        """
        ...

    def settle(self, directory: str) -> None:
        """Make the names of all files created so far in a directory durable."""
        ...

    def replace(self, key: str, data: bytes, version: object) -> bool:
        """Compare and swap: write a small file if its version is still this one, durably.

        `version` None stands for there being no file. False, changing nothing, if it is another.
        Raises NotAFile.
        """
        ...

    def mend(self, key: str, data: memoryview) -> None:
        """Let a file that never changes have these bytes, in one step, also in place of others.

        Durable on return. It may come to nothing where another process does the same.
        """
        ...

    def touch(self, keys: Iterable[str]) -> None:
        """Make files count as modified now; those that are not there are passed over."""
        ...

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """The bytes of each file, without those that are not there."""
        ...

    def stat(self, key: str) -> Entry | None:
        """Size and time of a file; None if there is none."""
        ...

    def remove(self, keys: Iterable[str], lease: Lease) -> None:
        """Remove files; those that are not there are passed over. `lease` gives the right to.

        Each request is made once. Raises LeaseLost, or StorageError when one was not answered; by
        then all of them have come to their end.
        """
        ...

    def names(self, directory: str) -> list[str]:
        """The names in a directory, of files and of directories, in any order."""
        ...

    def walk(self, directory: str) -> Iterator[Entry]:
        """Every file below a directory, however deep; "" lists everything."""
        ...

    def alone(self, purpose: str, *, wait: bool = True) -> AbstractContextManager[Lease]:
        """Wait until nobody else, anywhere, is alone for this purpose, and be it.

        Without `wait`, raises Taken as soon as it is certain that somebody who lives is.
        """
        ...

    def holder(self, purpose: str) -> str | None:
        """Who is alone for this purpose, as `holder_told` says; None for nobody who lives.

        Changes nothing. It is to be shown: who has to know for certain asks to be `alone`.
        """
        ...

    def tidy(self, before: float, *, dry_run: bool) -> int:
        """Remove what dead writers left and what is out of use since `before`; how many files."""
        ...
