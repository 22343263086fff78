"""Unpacks ZIP and TAR archives into a scratch folder, within bounds.

The law: nothing is written outside the given folder. Only plain files and folders are unpacked. The
bytes are counted while they are written; sizes in the archive are not trusted.
"""

from __future__ import annotations

import errno
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from evolution.data.errors import DataError

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MAX_MEMBERS = 20_000_000
# Pictures hardly compress, so an archive that grows more than this does not hold pictures.
MAX_GROWTH = 100
FREE_BYTES = 1 << 30  # any archive may unpack to this size
PIECE = 1 << 20
MAX_NAME = 1000  # characters of a member's path
# Errors of member names that this file system does not allow, or not together.
UNWRITABLE = (
    errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ,
)  # fmt: skip


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive."""
    return path.name.lower().endswith(ENDINGS)


def unpack(archive: Path, into: Path) -> None:
    """Writes the members of an archive below the new folder `into`. Raises DataError, OSError."""
    into.mkdir()
    limit = max(FREE_BYTES, MAX_GROWTH * archive.stat().st_size)
    try:
        members = _zip(archive) if archive.name.lower().endswith(".zip") else _tar(archive)
        for number, (name, stream) in enumerate(members):
            if number >= MAX_MEMBERS:
                raise DataError(f"{archive}: expected at most {MAX_MEMBERS:,} members; split it")
            target = _target(archive, name, into)
            try:
                limit = _write(archive, stream, target, limit)
            except OSError as error:
                if error.errno not in UNWRITABLE:
                    raise
                raise _unwritable(archive, name, str(error.strerror)) from None
    except (
        zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError,
        NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        # RuntimeError: encrypted; NotImplementedError: a compression that Python does not have
        raise DataError(
            f"{archive}: expected a ZIP or TAR that can be read, found: {error}; pack it again, "
            "without a password"
        ) from None


def _target(archive: Path, name: str, into: Path) -> Path:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in (parts.parts or ("",))[0]:
        raise DataError(
            f"{archive}: member {name!r} leads out of the archive, expected relative names; pack "
            "the folder again"
        )
    if len(name) > MAX_NAME:
        raise _unwritable(archive, name, "its name is too long")
    return into / parts


def _unwritable(archive: Path, name: str, why: str) -> DataError:
    return DataError(
        f"{archive}: member {name!r:.200} cannot be unpacked: {why}; rename it, or give the folder "
        "itself"
    )


def _write(archive: Path, stream: IO[bytes], target: Path, limit: int) -> int:
    """Copies a member; the number of bytes that may still be written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        while piece := stream.read(PIECE):
            limit -= len(piece)
            if limit < 0:
                raise DataError(
                    f"{archive}: unpacks to more than {MAX_GROWTH} times its size, which pictures "
                    "do not; unpack it yourself, and give the folder"
                )
            file.write(piece)
    return limit


def _zip(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if (member.external_attr >> 16) & 0o170000 == 0o120000:
                raise _link(archive, member.filename)
            if not member.is_dir():
                with opened.open(member) as stream:
                    yield member.filename, stream


def _tar(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isdir():
                continue
            stream = opened.extractfile(member) if member.isreg() else None
            if stream is None:
                raise _link(archive, member.name)
            with stream:
                yield member.name, stream


def _link(archive: Path, name: str) -> DataError:
    return DataError(
        f"{archive}: member {name!r} is a link or a device, expected files and folders; pack it "
        "again with links followed (tar -h, zip without -y)"
    )


def removed(folder: Path) -> None:
    """Deletes an unpacked folder."""
    shutil.rmtree(folder, ignore_errors=True)
