"""Small files that other programs write, like keys and tokens; reading never waits for them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Stamp = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A plain file that is open."""

    descriptor: int
    stamp: Stamp  # changes with the file

    def read(self, most_bytes: int) -> bytes:
        """All of it. Raises OSError, or ValueError for more than `most_bytes`."""
        with open(self.descriptor, "rb", closefd=False) as content:
            data = content.read(most_bytes + 1)
        if len(data) > most_bytes:
            raise ValueError(f"expected at most {most_bytes} bytes")
        return data


@contextmanager
def opened(path: Path) -> Iterator[PlainFile]:
    """Opens a file. Raises OSError, or ValueError for a folder, a pipe, a socket or a device."""
    # Neither opening nor reading may wait for somebody else, as they would at a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("expected a plain file")
        stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
        yield PlainFile(descriptor, stamp)
    finally:
        os.close(descriptor)
