"""Opens the place given with --from as a source: by its prefix, name and content."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from evolution.data.archives import ENDINGS as ARCHIVES
from evolution.data.archives import is_archive, unpack
from evolution.data.errors import DataError, listed
from evolution.data.folders import below_wrappers, files_in, folder_source, folders_in
from evolution.data.hub import hub_files, hub_source
from evolution.data.prepared import prepared_source
from evolution.data.rows import Source, joined, split_named
from evolution.data.samples import SAMPLES, samples_source
from evolution.data.tables import ENDINGS as TABLES
from evolution.data.tables import Columns, has_columns, is_table, table_source

TFDS, HUB = "tfds:", "hf:"


@dataclass(frozen=True, slots=True)
class Asked:
    """How to read a table, and where samples lie."""

    columns: Columns = field(default_factory=Columns)
    images: Path | None = None  # its paths are relative to this; None: the table's folder
    samples: str = ""  # where gateways keep samples


def open_source(place: str, asked: Asked, scratch: Path) -> Source:
    """Opens a place; archives are unpacked into the folder `scratch`. Raises DataError, OSError."""
    if place.startswith(TFDS):
        return prepared_source(place.removeprefix(TFDS), scratch / "prepared")
    if place.startswith(HUB):
        return hub_source(place.removeprefix(HUB), asked.columns)
    if place.startswith(SAMPLES):
        return samples_source(place.removeprefix(SAMPLES), asked.samples)
    path = Path(place).expanduser()
    if not place:
        raise DataError("--from: expected a folder, a table or an archive, found an empty text")
    if "://" in place:
        raise DataError(
            f"{place}: expected a path on this machine, found an address; download it first (a "
            "bucket may hold the pictures that a table names, and what MUNET_DATA says)"
        )
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
    """The public name of a place, never a path of this machine."""
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
    tables = _tables_in(top)
    if not tables:
        parts = _tables_of_splits(top)
        return _together(parts, asked) if parts else folder_source(folder)
    if len(tables) == 1:
        return _folder_with_table(folder, tables[0], asked)
    splits = [split_named(table.stem) for table in tables]
    if all(splits) and len(set(splits)) == len(splits):
        return _together(list(zip(tables, splits, strict=True)), asked)
    raise DataError(
        f"{folder}: expected one table, or one for each split, found "
        f"{listed([table.name for table in tables])}; name the table itself"
    )


def _tables_in(folder: Path) -> list[Path]:
    return [folder / name for name in files_in(folder) if is_table(folder / name)]


def _tables_of_splits(top: Path) -> list[tuple[Path, str | None]]:
    """One table in the folder of each split, as `train/metadata.csv`."""
    places = folders_in(top)
    found = [(table, split_named(p.name)) for p in places for table in _tables_in(p)]
    splits = [split for _, split in found]
    return found if len(found) == len(places) == len(set(splits)) and all(splits) else []


def _together(tables: list[tuple[Path, str | None]], asked: Asked) -> Source:
    parts = [table_source(table, asked.columns, asked.images, split) for table, split in tables]
    return joined(listed([str(table) for table, _ in tables]), parts)


def _folder_with_table(folder: Path, table: Path, asked: Asked) -> Source:
    """The table if it has pictures and classes, else the class folders next to it."""
    if not folders_in(table.parent) or has_columns(table, asked.columns):
        return table_source(table, asked.columns, asked.images)
    return folder_source(folder)
