"""Small file systems of the real kind, to be filled up."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = 4096


@contextmanager
def small_disk(directory: Path, size: int) -> Iterator[Path]:
    """A file system in memory of this many bytes; skips the test where none may be mounted."""
    with _mounted(directory, ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]):
        yield directory


@contextmanager
def small_ext4(directory: Path, size: int) -> Iterator[Path]:
    """An ext4 of this many bytes; skips the test where none may be made and mounted."""
    image = directory.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(size)
    make = ["mkfs.ext4", "-q", "-F", "-m", "0", "-N", "2000", str(image)]
    if not shutil.which(make[0]) or subprocess.run(make, capture_output=True).returncode:
        pytest.skip("no mkfs.ext4 here")
    with _mounted(directory, ["-o", "loop", str(image)]):
        yield directory


@contextmanager
def _mounted(directory: Path, arguments: list[str]) -> Iterator[None]:
    directory.mkdir()
    mount = ["mount", *arguments, str(directory)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def fill(disk: Path, free_pages: int = 0) -> Path:
    """Write a file until nothing goes into it; then give some pages back. The file."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (PAGE * 64, PAGE, 1):
            with pytest.raises(OSError, match="No space"):
                while True:
                    file.write(b"x" * size)
            os.fsync(file.fileno())
        file.truncate(max(0, file.tell() - free_pages * PAGE))
    return filler


def free_bytes(disk: Path) -> int:
    """What the system says is free."""
    found = os.statvfs(disk)
    return found.f_bfree * found.f_frsize
