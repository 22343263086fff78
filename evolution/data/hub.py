"""Data sets of the Hugging Face Hub: a folder in its layout, or by name through `datasets`.

`datasets` is an extra: a folder of parquet files, as the Hub stores them, needs only pyarrow.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evolution.data.errors import DataError, listed
from evolution.data.folders import folders_in
from evolution.data.rows import SPLITS, Source, joined, split_named
from evolution.data.tables import ROWS_AT_ONCE, Columns, Record, Table, source_of, table_source

LIBRARY = "datasets"
SAVED = ("dataset_dict.json", "state.json")  # files that the library itself saves


def hub_files(folder: Path) -> list[Path]:
    """The parquet files of a folder in the Hub's layout: below `data`, or each of a split by name.

    The split is in a file's name or in that of its folder: `train-00000-of-00002`, `train/0000`.
    They may lie in the folder of a configuration, if there is one. Raises DataError for several.
    """
    if found := _files_in(folder):
        return found
    named = {place: files for place in folders_in(folder) if (files := _files_in(place))}
    if len(named) > 1:
        names = sorted(place.name for place in named)
        raise DataError(
            f"{folder}: expected one data set, found the configurations {listed(names)}; give the "
            f"folder of one: {folder / names[0]}"
        )
    return next(iter(named.values()), [])


def _files_in(folder: Path) -> list[Path]:
    places = [folder / "data", folder]
    found = (sorted(place.glob("*.parquet")) for place in places)
    if files := next(filter(None, found), None):
        return files if files[0].parent != folder or all(map(split_of, files)) else []
    inner = (place for place in folder.iterdir() if split_named(place.name))
    return sorted(file for place in inner for file in place.glob("*.parquet"))


def split_of(file: Path) -> str | None:
    """The split in a file's name."""
    return split_named(file.stem.partition("-")[0]) or split_named(file.parent.name)


def hub_source(name: str, columns: Columns) -> Source:
    """A data set of the Hub, DATASET or DATASET@REVISION, or a folder. Raises DataError."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        dataset, _, revision = name.partition("@")
        return _loaded_source(name, columns, dataset, revision=revision or None)
    if files := hub_files(folder):
        parts = [table_source(file, columns, folder, split=split_of(file)) for file in files]
        return joined(str(folder), parts)
    return _loaded_source(name, columns, str(folder))


def _loaded_source(name: str, columns: Columns, dataset: str, **how: Any) -> Source:
    """The data set that the library loads, by name or from a folder."""
    try:
        datasets: Any = importlib.import_module(LIBRARY)
    except ImportError:
        raise DataError(
            f"hf:{name}: expected a folder of parquet files as the Hub has them, or the library "
            f"`{LIBRARY}`, found neither\ninstall it (pip install {LIBRARY}), or download the "
            "data set's parquet files (hf download --repo-type dataset) and give their folder"
        ) from None
    saved = any((Path(dataset) / file).exists() for file in SAVED)
    try:
        found = datasets.load_from_disk(dataset) if saved else datasets.load_dataset(dataset, **how)
    except Exception as error:  # of its many libraries
        raise _failed(name, error) from error
    if not isinstance(found, Mapping):
        found = {str(found.split or "train"): found}
    splits = {part: split for part in found if (split := split_named(str(part)))}
    if len(set(splits.values())) < len(splits) or not splits:
        raise DataError(
            f"hf:{name}: expected splits called {', '.join(SPLITS)}, found {listed(list(found))}"
        )
    others = [part for part in found if part not in splits]
    notes = [f"left out, as they are no splits known here: {listed(others)}"] if others else []
    parts = [_part(datasets, name, columns, split, found[part]) for part, split in splits.items()]
    return replace(joined(f"hf:{name}", parts), notes=notes)


def _part(datasets: Any, name: str, columns: Columns, split: str, data: Any) -> Source:
    """A split with its pictures as stored bytes."""
    features = dict(data.features)
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    inner = {column: _inner(kind) for column, kind in features.items()}
    classes = {
        column: tuple(kind.names)
        for column, kind in inner.items()
        if isinstance(kind, datasets.ClassLabel)
    }
    lists = [column for column, kind in features.items() if inner[column] is not kind]
    embedded = importlib.import_module(f"{LIBRARY}.table").embed_table_storage

    def records(only: str | None) -> Iterator[tuple[str, Record]]:
        number = 0
        try:
            wanted = data.select_columns([only]) if only else data
            for batch in wanted.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
                for record in embedded(batch).to_pylist():
                    yield f"{split} {number}", record
                    number += 1
        except Exception as error:  # missing files
            raise _failed(name, error) from error

    table = Table(Path(name), tuple(features), records, classes, len(data), lists)
    found = replace(
        columns,
        image=columns.image or (images[0] if len(images) == 1 else None),
        label=columns.label or (next(iter(classes)) if len(classes) == 1 else None),
    )
    return source_of(table, found, Path(), split)


def _inner(kind: Any) -> Any:
    """The elements' feature of a list, in any form of the library; else the feature itself."""
    return kind[0] if isinstance(kind, list) and kind else getattr(kind, "feature", kind)


def _failed(name: str, error: Exception) -> DataError:
    told = " ".join(str(error).split()) or type(error).__name__
    return DataError(
        f"hf:{name}: {LIBRARY} cannot load it: {told:.300}\ncheck name and connection, or download "
        "the data set's parquet files and give their folder"
    )
