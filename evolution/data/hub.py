"""Data sets of the Hugging Face Hub: a folder in its layout, or by name through `datasets`.

`datasets` is an extra: a folder of parquet files, as the Hub stores them, needs only pyarrow.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from evolution.data.errors import DataError, listed
from evolution.data.rows import SPLITS, Source, joined, split_named
from evolution.data.tables import Columns, Record, Table, source_of, table_source

LIBRARY = "datasets"


def hub_files(folder: Path) -> list[Path]:
    """The parquet files of a folder in the Hub's layout: in it, or in its folder `data`."""
    here = sorted(folder.glob("*.parquet"))
    return sorted((folder / "data").glob("*.parquet")) or (here if _told(here) else [])


def _told(files: list[Path]) -> bool:
    return bool(files) and all(_split(file) for file in files)


def _split(file: Path) -> str | None:
    return split_named(file.stem.partition("-")[0])


def hub_source(name: str, columns: Columns) -> Source:
    """A data set of the Hub, DATASET or DATASET@REVISION, or a folder. Raises DataError."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _folder_source(folder, columns)
    return _named_source(name, columns)


def _folder_source(folder: Path, columns: Columns) -> Source:
    files = hub_files(folder)
    if not files:
        raise DataError(
            f"{folder}: expected parquet files as the Hub has them (data/train-….parquet), found "
            "none; give the folder that holds `data`"
        )
    return joined(str(folder), [table_source(f, columns, folder, split=_split(f)) for f in files])


def _named_source(name: str, columns: Columns) -> Source:
    try:
        datasets: Any = importlib.import_module(LIBRARY)
    except ImportError:
        raise DataError(
            f"hf:{name}: expected the library `{LIBRARY}` or a folder of this name, found neither\n"
            f"install it (pip install {LIBRARY}), or download the data set's parquet files and "
            "give their folder"
        ) from None
    dataset, _, revision = name.partition("@")
    try:
        loaded = datasets.load_dataset(dataset, revision=revision or None)
    except Exception as error:  # of its many libraries
        raise DataError(
            f"hf:{name}: {LIBRARY} cannot load it: {error!s:.300}; check name and connection"
        ) from error
    parts = [
        _part(datasets, dataset, columns, split, data)
        for part, data in loaded.items()
        if (split := split_named(part))
    ]
    if not parts:
        raise DataError(
            f"hf:{name}: expected splits called {', '.join(SPLITS)}, found {listed(list(loaded))}"
        )
    return joined(f"hf:{name}", parts)


def _part(datasets: Any, name: str, columns: Columns, split: str, data: Any) -> Source:
    """A split, its pictures as the bytes they are stored as."""
    features = dict(data.features)
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    for column in images:
        data = data.cast_column(column, datasets.Image(decode=False))
    classes = {
        column: tuple(kind.names)
        for column, kind in features.items()
        if isinstance(kind, datasets.ClassLabel)
    }

    def records() -> Iterator[tuple[str, Record]]:
        for number, record in enumerate(data):
            yield f"{split} {number}", record

    table = Table(Path(name), tuple(features), records, classes, len(data))
    found = replace(
        columns,
        image=columns.image or (images[0] if len(images) == 1 else None),
        label=columns.label or (next(iter(classes)) if len(classes) == 1 else None),
    )
    return source_of(table, found, Path(), split)
