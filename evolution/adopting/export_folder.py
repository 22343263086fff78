"""The folder of an export: it appears whole or not at all, and replaces only an export.

It is written under a temporary name, made durable, and renamed. `munet.json` lists the digests of
all other files. A folder in which something was added, changed or removed is not replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evolution.adopting.export_errors import OccupiedFolder
from model_store.files.atomic import sync_directory

RECORD = "munet.json"


def write_folder(folder: Path, write: Callable[[Path], None], record: Mapping[str, Any]) -> None:
    """Calls `write` with an empty folder, adds the record, and renames it to `folder`.

    `folder` must be missing, empty, or an unchanged export. Raises OccupiedFolder or OSError; then
    `folder` is unchanged. A killed process leaves its unfinished folder in the same place, under a
    name that begins with a dot. If it was just replacing an export, that one is left too, under a
    name that ends in "-replaced".
    """
    require_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(folder) as made:
        write(made)
        files = {file.name: digest_of_file(file) for file in sorted(made.iterdir())}
        told = json.dumps({**record, "files": files}, ensure_ascii=False, indent=1)
        (made / RECORD).write_text(told + "\n", "utf-8")
        for file in made.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        sync_directory(made)
        _put(made, folder)
    sync_directory(folder.parent)


def require_free(folder: Path) -> set[str]:
    """The files of the export at `folder`; raises OccupiedFolder unless it may be replaced."""
    if not folder.exists() and not folder.is_symlink():
        return set()
    if folder.is_symlink() or not folder.is_dir():
        raise _occupied(folder, "a link" if folder.is_symlink() else "a file")
    names = {file.name for file in folder.iterdir()}
    if not names:
        return names
    if RECORD not in names:
        raise _occupied(
            folder, f"{len(names)} files that are no export, such as {min(names)!r:.60}"
        )
    files = _recorded(folder / RECORD)
    if others := sorted(names - {RECORD, *files}):
        raise _occupied(folder, f"an export and {others[0]!r:.60}")
    for name, digest in files.items():
        if name not in names or digest_of_file(folder / name) != digest:
            raise _occupied(folder, f"an export whose {name!r:.60} was changed or removed")
    return names


def _occupied(folder: Path, found: str) -> OccupiedFolder:
    return OccupiedFolder(
        f"{folder}: expected no such folder, an empty one, or an export as it was written; "
        f"found {found}\nchoose another folder, or move this one away"
    )


def _recorded(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text("utf-8"))["files"]
        if isinstance(found, dict) and all(Path(name).name == name for name in found):
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise _occupied(file.parent, f"a {RECORD} that no export wrote")


def digest_of_file(file: Path) -> str:
    """The digest of a plain file; empty for anything else."""
    if file.is_symlink() or not file.is_file():
        return ""
    with file.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """An empty temporary folder next to it, removed at the end unless it was renamed."""
    made = folder.with_name(f".{folder.name}~{os.getpid()}-{secrets.token_hex(4)}")
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _put(made: Path, folder: Path) -> None:
    """Renames. An existing export is renamed first and removed last."""
    if not folder.exists() or not any(folder.iterdir()):
        os.rename(made, folder)  # replaces an empty folder only
        return
    aside = made.with_name(f"{made.name}-replaced")
    os.rename(folder, aside)
    try:
        names = require_free(aside)  # files that were added since are kept
        os.rename(made, folder)
    except (OSError, OccupiedFolder):
        os.rename(aside, folder)
        raise
    for name in names:
        (aside / name).unlink()
    aside.rmdir()
