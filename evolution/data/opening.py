"""What a user names with --from, as a source: by its prefix, its name and what lies in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from evolution.data.archives import ENDINGS as ARCHIVES
from evolution.data.archives import is_archive, unpack
from evolution.data.errors import DataError, listed
from evolution.data.folders import below_wrappers, entries, folder_source, folders_in
from evolution.data.hub import hub_files, hub_source
from evolution.data.prepared import prepared_source
from evolution.data.rows import Source, split_named
from evolution.data.tables import ENDINGS as TABLES
from evolution.data.tables import Columns, has_columns, is_table, table_source

TFDS, HUB = "tfds:", "hf:"


@dataclass(frozen=True, slots=True)
class Asked:
    """How a table is to be read."""

    columns: Columns = field(default_factory=Columns)
    images: Path | None = None  # what paths in it are relative to; None: the table's folder


def open_source(place: str, asked: Asked, scratch: Path) -> Source:
    """Opens a place; archives are unpacked into the folder `scratch`. Raises DataError, OSError."""
    if place.startswith(TFDS):
        return prepared_source(place.removeprefix(TFDS))
    if place.startswith(HUB):
        return hub_source(place.removeprefix(HUB), asked.columns)
    path = Path(place).expanduser()
    if not path.exists():
        raise DataError(
            f"{place}: expected a folder, a table or an archive, found nothing there; correct the "
            f"path, or begin with {TFDS} or {HUB} for a data set of that name"
        )
    if path.is_dir():
        return _folder(path, asked)
    if is_archive(path):
        return _archive(path, asked, scratch / "unpacked")
    if is_table(path):
        return table_source(path, asked.columns, asked.images)
    raise DataError(
        f"{place}: expected a folder, a table ({', '.join(TABLES)}) or an archive "
        f"({', '.join(ARCHIVES[:3])}, …), found a file of another name; rename or convert it"
    )


def public_name(place: str) -> str:
    """What may be told to all of where a set comes from: a name, never a path of this machine."""
    prefix, _, name = place.partition(":")
    named = f"{prefix}:" in (TFDS, HUB) and not Path(name).expanduser().exists()
    return place if named else ""


def _archive(path: Path, asked: Asked, into: Path) -> Source:
    try:
        unpack(path, into)
        return _folder(into, asked)
    except DataError as error:
        raise DataError(str(error).replace(str(into), str(path))) from None


def _folder(folder: Path, asked: Asked) -> Source:
    top = below_wrappers(folder) if folders_in(folder) else folder
    if hub_files(top):
        return hub_source(str(top), asked.columns)
    tables = [Path(e.path) for e in entries(top) if e.is_file() and is_table(Path(e.path))]
    if not tables:
        return folder_source(folder)
    if len(tables) == 1:
        return _folder_with_table(folder, tables[0], asked)
    splits = [split_named(table.stem) for table in tables]
    if all(splits) and len(set(splits)) == len(splits):
        parts = [
            table_source(table, asked.columns, asked.images, split)
            for table, split in zip(tables, splits, strict=True)
        ]
        return replace(parts[0], rows=lambda: chain.from_iterable(p.rows() for p in parts))
    raise DataError(
        f"{folder}: expected one table, or one for each split, found "
        f"{listed([table.name for table in tables])}; name the table itself"
    )


def _folder_with_table(folder: Path, table: Path, asked: Asked) -> Source:
    """The table if it tells pictures and classes, else the class folders beside it."""
    if not folders_in(table.parent) or has_columns(table, asked.columns):
        return table_source(table, asked.columns, asked.images)
    return folder_source(folder)
