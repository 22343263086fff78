"""A folder of class folders, with or without train, validation and test above them.

The law: the name of a class is exactly that of its folder. A folder is a class even if no picture
in it can be used. Any plain file in it, at any depth, is a picture of that class, or is reported as
unusable. Hidden files are left out. Other files next to the class folders are reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from evolution.data.archives import is_archive
from evolution.data.errors import DataError, counted, listed
from evolution.data.rows import (
    Row,
    Skipped,
    Source,
    in_order,
    read_picture,
    require_text,
    split_named,
)

CLASSES = (
    "put the pictures of each class into a folder named as the class, or give a table with "
    "columns image and label"
)
LEFT_OUT = {"__macosx", "thumbs.db", "desktop.ini"}  # what systems add to folders and archives


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """The visible entries of a folder, by name."""
    with os.scandir(folder) as found:
        kept = [e for e in found if not e.name.startswith(".") and e.name.lower() not in LEFT_OUT]
    return sorted(kept, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder. Raises DataError for a link to a folder."""
    found = []
    for entry in entries(folder):
        if _is_folder(entry):
            if entry.is_symlink():
                raise DataError(
                    f"{entry.path}: a link to a folder, expected a folder; copy what it leads to "
                    "into its place"
                )
            found.append(Path(entry.path))
    return found


def below_wrappers(folder: Path) -> Path:
    """The first folder with more than one entry: archives often wrap everything in one folder."""
    inner = folders_in(folder)
    while len(inner) == 1 and len(entries(folder)) == 1 and folders_in(inner[0]):
        if split_named(inner[0].name):
            break
        folder = inner[0]
        inner = folders_in(folder)
    return folder


def folder_source(folder: Path) -> Source:
    """The pictures of class folders. Raises DataError."""
    top = below_wrappers(folder)
    within = folders_in(top)
    loose = files_in(top)
    if not within:
        raise _no_class_folder(folder, loose)
    parts = _parts(top, within)
    classes = {name for _, inside in parts for name in inside}
    require_text(classes, str(folder))
    files = [
        (split, name, file)
        for split, inside in parts
        for name, place in inside.items()
        for file in _files(place)
    ]
    if not files:
        raise DataError(
            f"{folder}: expected pictures in its {len(classes)} class folders, found no file; "
            "check that this is the right folder"
        )
    root = folder.resolve()

    def rows() -> Iterator[Row | Skipped]:
        for split, name, file in files:
            where = os.fsencode(file.relative_to(top)).decode("utf-8", "backslashreplace")
            try:
                yield Row(where, read_picture(file, root), (name,), split)
            except ValueError as error:
                yield Skipped(where, str(error))

    hidden = _hidden_folders(top)
    if parts[0][0]:  # folders of splits
        loose += [f"{place.name}/{name}" for place in within for name in files_in(place)]
        hidden += [f"{place.name}/{name}" for place in within for name in _hidden_folders(place)]
    notes = [f"left out, as they are next to the class folders: {listed(loose)}"] if loose else []
    if hidden:
        notes.append(f"left out, as their names begin with a dot: {listed(hidden)}")
    return Source(rows, classes=in_order(classes), total=len(files), notes=notes)


def _hidden_folders(folder: Path) -> list[str]:
    """The names of folders that are left out, though one may be meant as a class."""
    with os.scandir(folder) as found:
        return sorted(entry.name for entry in found if entry.name[0] == "." and _is_folder(entry))


def _no_class_folder(folder: Path, loose: list[str]) -> DataError:
    found = f"{counted(len(loose), 'file')}: {listed(loose, 3)}" if loose else "an empty folder"
    packed = [name for name in loose if is_archive(Path(name))]
    remedy = (
        f"unpack {listed(packed, 3)}, and give what is in it with --from" if packed else CLASSES
    )
    return DataError(f"{folder}: expected a folder for each class, found {found}\n{remedy}")


def _parts(top: Path, within: list[Path]) -> list[tuple[str | None, dict[str, Path]]]:
    """For each split, or once for None, the class folders by the names of their classes."""
    named = {place: split_named(place.name) for place in within}
    inner = {place: folders_in(place) for place in within if named[place]}
    if all(named.values()) and not any(inner.values()):
        raise DataError(
            f"{top}: expected class folders in {listed([p.name for p in within])}, which are "
            f"called as splits are; found none\n{CLASSES}"
        )
    if not any(inner.values()):
        return [(None, {place.name: place for place in within})]
    others = [place.name for place in within if not inner.get(place)]
    if others or len(set(named.values())) < len(named):
        raise DataError(
            f"{top}: expected a folder for each split with class folders in it, found "
            f"{listed([p.name for p in within])}; put all pictures of a split into one folder, and "
            f"move others away{': ' + listed(others) if others else ''}"
        )
    return [(split, {p.name: p for p in inner[place]}) for place, split in named.items()]


def files_in(folder: Path) -> list[str]:
    """The names of entries that are not folders."""
    return [entry.name for entry in entries(folder) if not _is_folder(entry)]


def _files(folder: Path) -> Iterator[Path]:
    for entry in entries(folder):
        if not _is_folder(entry):
            yield Path(entry.path)
    for inner in folders_in(folder):
        yield from _files(inner)
