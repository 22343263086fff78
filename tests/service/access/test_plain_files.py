"""Files of keys and tokens: read whole or refused, and never waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from service.access.plain_files import opened


def read(path: Path, most_bytes: int) -> bytes:
    with opened(path) as file:
        return file.read(most_bytes)


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_a_file_is_read_whole(tmp_path: Path, size: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(size))
    assert read(file, 100) == bytes(size)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for size in (101, 2**40):
        file.touch()
        os.truncate(file, size)
        with pytest.raises(ValueError, match="at most 100 bytes"):
            read(file, 100)


OTHERS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    "loop": lambda path: path.symlink_to(path),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_plain_file_is_refused_and_closed(tmp_path: Path, kind: str) -> None:
    OTHERS[kind](tmp_path / "file")
    before = os.listdir("/proc/self/fd")
    with pytest.raises((OSError, ValueError)):
        read(tmp_path / "file", 100)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_the_stamp_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1")
    with opened(file) as first, opened(file) as second:
        assert first.stamp == second.stamp
    (tmp_path / "new").write_bytes(b"1")
    (tmp_path / "new").replace(file)
    with opened(file) as third:
        assert third.stamp != first.stamp
