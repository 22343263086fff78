"""Groups of processes with less memory than the machine has, made where the kernel lets us."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
LIMITS = {V1: "memory.limit_in_bytes", V2: "memory.max"}


@dataclass(frozen=True, slots=True)
class Group:
    """A control group with a limit of memory."""

    folder: Path

    @property
    def prefix(self) -> tuple[str, ...]:
        """Put before a command, it makes its process one of the group."""
        return ("sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh")

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has killed for memory."""
        for name in ("memory.events", "memory.oom_control"):
            with suppress(FileNotFoundError):
                lines = (self.folder / name).read_text().split("\n")
                return int(dict(line.split() for line in lines if line)["oom_kill"])
        raise AssertionError(f"{self.folder} does not count kills")


@contextmanager
def limited(memory: int) -> Iterator[Group]:
    """A group of this many bytes; skips where none can be made."""
    for base, limit in LIMITS.items():
        folder = base / f"munet-test-{os.getpid()}-{time.monotonic_ns()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(memory))
            yield Group(folder)
            return
        except FileNotFoundError:  # a hierarchy without a limit of memory
            continue
        finally:
            _remove(folder)
    pytest.skip("the kernel lets us make no control group with a limit of memory")


def _remove(folder: Path) -> None:
    """Its processes have ended, but the kernel may need a moment to notice."""
    for _ in range(100):
        with suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.05)
