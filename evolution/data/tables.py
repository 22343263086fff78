"""A table with one picture in each row: CSV, TSV, JSON lines or parquet.

The law: the picture is bytes in the table (base64 if the table is text), a URL in a bucket, or a
path. A path is relative to the table's folder, or to the given folder, and must not lead out of it.
The class is a text or a whole number, kept exactly. A row without a picture or a class is reported
as unusable. A table whose rows cannot be separated is refused.

A column of lists has several labels a picture. So has a column of texts if one of them has a `|`,
as in `cat|dog`. Then an empty list or text is a picture without labels.
"""

from __future__ import annotations

import base64
import csv
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evolution.data.buckets import SCHEMES, Buckets, is_url
from evolution.data.errors import DataError, listed
from evolution.data.parquet_layout import classes_in, is_list
from evolution.data.rows import (
    MAX_FILE_BYTES,
    SPLIT_NAMES,
    Row,
    Skipped,
    Source,
    read_picture,
    split_named,
)

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
IMAGE_COLUMNS = (
    "image", "file_name", "filename", "image_path", "filepath", "file_path", "path", "file",
    "image_url", "url", "img",
)  # fmt: skip
LABEL_COLUMNS = ("label", "class", "category", "labels", "class_name", "target", "species")
SPLIT_COLUMNS = ("split", "subset", "partition")
ROWS_AT_ONCE, BYTES_AT_ONCE = 32, 32 << 20  # of a parquet file, at most
ROWS_FOR_COLUMNS = 1000  # first lines of JSON that are read for the names of columns
DATA_URL = "data:"
LABEL_SEPARATOR = "|"
csv.field_size_limit(2 * MAX_FILE_BYTES)  # the table may hold pictures, as base64

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of columns; None: found by their usual names."""

    image: str | None = None
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose columns are known and whose rows are not read yet."""

    path: Path
    columns: tuple[str, ...]
    # Each row with its place, as `line 7`; only one column if it is named and that is less work.
    records: Callable[[str | None], Iterator[tuple[str, Record]]]
    classes: Mapping[str, tuple[str, ...]]  # by column, if the table itself names them
    total: int | None = None
    lists: Collection[str] = ()  # columns that are known to hold lists


def is_table(path: Path) -> bool:
    """Whether the name is that of a table."""
    return path.name.lower().endswith(ENDINGS)


def table_source(
    path: Path, columns: Columns, folder: Path | None = None, split: str | None = None
) -> Source:
    """The pictures of a table; paths are relative to `folder`, by default to the table's own.

    `split` is that of all rows if the table has no such column. Raises DataError.
    """
    return source_of(_opened(path), columns, folder or path.parent, split)


def source_of(table: Table, columns: Columns, folder: Path, split: str | None) -> Source:
    """As `table_source`, for an open table."""
    path = table.path
    image = _column(table, "image", columns.image, IMAGE_COLUMNS)
    label = _column(table, "label", columns.label, LABEL_COLUMNS)
    parting = _column(table, "split", columns.split, SPLIT_COLUMNS, optional=True)
    pictures = _Pictures(folder.resolve(), Buckets())
    names = table.classes.get(label)

    def rows() -> Iterator[Row | Skipped]:
        for where, record in table.records(None):
            named = f"{path.name}, {where}"
            try:
                shown, data = pictures.of(record.get(image), named)
                named = shown
                labels = _labels(record.get(label), names)
            except ValueError as error:
                yield Skipped(named, str(error))
                continue
            part = _split(record.get(parting), f"{path}, {where}") if parting else split
            yield Row(named, data, labels, part)

    def multi_label() -> bool:
        if label in table.lists or names is not None:
            return label in table.lists
        values = (record.get(label) for _, record in table.records(label))
        return any(isinstance(value, list) or _has_separator(value) for value in values)

    return Source(rows, classes=names, total=table.total, multi_label=multi_label)


# ---- the content of a row


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Reads the pictures that a table names."""

    root: Path
    buckets: Buckets

    def of(self, value: Any, where: str) -> tuple[str, bytes]:
        """A picture's name and bytes. Raises ValueError; DataError if a bucket does not answer."""
        if isinstance(value, Mapping):  # the Hub's form: bytes, or a path
            name, data = value.get("path"), value.get("bytes")
            if data is None:
                return self.of(name, where)
            return str(name or where), _filled(_decoded(data) if isinstance(data, str) else data)
        if isinstance(value, bytes):
            return where, _filled(value)
        if not isinstance(value, str) or not value:
            raise ValueError("no picture: expected a path, a URL or bytes")
        if value.startswith(DATA_URL):
            return where, _filled(_decoded(value.partition(",")[2]))
        try:
            return value, self._named(value)
        except ValueError as error:
            raise ValueError(f"{value:.200}: {error}") from None

    def _named(self, value: str) -> bytes:
        if is_url(value):
            return _filled(self.buckets.read(value))
        if "://" in value:
            raise ValueError(f"expected a path or a URL in a bucket ({', '.join(SCHEMES)}…)")
        return read_picture(self.root / value, self.root, "name a folder around it with --images")


def _decoded(text: str) -> bytes:
    """The bytes of a base64 text; raises ValueError."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError(f"expected base64, found {text!r:.40}") from None


def _filled(data: bytes) -> bytes:
    if not data:
        raise ValueError("an empty picture")
    return data


def _labels(value: Any, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """The labels of a row, each once; raises ValueError."""
    if value is None or value == "":
        return ()
    found = value if isinstance(value, list) else _parted(value) if names is None else [value]
    return tuple(dict.fromkeys(_label(one, names) for one in found))


def _has_separator(value: Any) -> bool:
    return isinstance(value, str) and LABEL_SEPARATOR in value


def _parted(value: Any) -> list[Any]:
    """The labels in a text. A single label is kept exactly, with its blanks."""
    if not _has_separator(value):
        return [value]
    return [part for one in value.split(LABEL_SEPARATOR) if (part := one.strip())]


def _label(value: Any, names: tuple[str, ...] | None) -> str:
    if isinstance(value, bool | int):
        if names is None:
            return str(int(value))
        if not 0 <= value < len(names):
            raise ValueError(f"class {value}, expected 0 to {len(names) - 1}")
        return names[value]
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str) or not value:
        raise ValueError(f"no class: expected a text or a whole number, found {value!r:.60}")
    if names is not None and value not in names:
        raise ValueError(f"class {value!r:.60}, which the table does not name among its classes")
    return value


def has_columns(path: Path, columns: Columns) -> bool:
    """Whether a table has columns of pictures and classes."""
    try:
        table_source(path, columns)
    except DataError:
        return False
    return True


def _split(value: Any, where: str) -> str | None:
    if value is None or value == "":
        return None
    found = split_named(str(value))
    if found is None:
        raise DataError(
            f"{where}: expected a split, one of {', '.join(SPLIT_NAMES)}, found {value!r:.60}; "
            "correct it, or name another column (--split-column)"
        )
    return found


# ---- files


def _column(
    table: Table, what: str, named: str | None, usual: Sequence[str], optional: bool = False
) -> str:
    if named is not None:
        if named in table.columns:
            return named
    else:
        lowered = {column.strip().lower(): column for column in reversed(table.columns)}
        found = next((lowered[name] for name in usual if name in lowered), None)
        if found is not None:
            return found
        if optional:
            return ""
    wanted = f"a column {named!r}" if named else f"a column of the {what}, as {listed(list(usual))}"
    raise DataError(
        f"{table.path}: expected {wanted}, found {listed(list(table.columns), 12) or 'none'}\n"
        f"name it: --{what}-column COLUMN"
    )


def _opened(path: Path) -> Table:
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    reader = _json_lines if path.suffix.lower() in (".jsonl", ".ndjson") else _delimited
    try:
        return reader(path)
    except UnicodeDecodeError as error:
        raise _not_text(path, error) from None


def _not_text(path: Path, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{path}: expected text in UTF-8, found byte {error.object[error.start]:#x} at "
        f"{error.start}; save it as UTF-8"
    )


def _delimited(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
    if "\0" in first:
        raise DataError(
            f"{path}: expected text in UTF-8, found null bytes, as of UTF-16; save it as UTF-8"
        )
    delimiter = max(",;\t", key=first.count) if path.suffix.lower() == ".csv" else "\t"
    with path.open(encoding="utf-8-sig", newline="") as file:
        columns = tuple(next(csv.reader(file, delimiter=delimiter), ()))
    if len(set(columns)) < len(columns):
        raise DataError(f"{path}: expected columns of different names, found {listed(columns)}")

    def records(only: str | None) -> Iterator[tuple[str, Record]]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Strict: an open quote would join many rows into one.
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            try:
                for record in reader:
                    if None in record:
                        raise csv.Error(
                            f"expected {len(columns)} values, found {len(columns)} and "
                            f"{record[None]!r:.60}: a value with {delimiter!r} in it needs quotes"
                        )
                    yield f"line {reader.line_num}", record
            except csv.Error as error:
                raise DataError(
                    f"{path}, line {reader.reader.line_num}: {error}; correct the line"
                ) from None
            except UnicodeDecodeError as error:
                raise _not_text(path, error) from None

    return Table(path, columns, records, {})


def _json_lines(path: Path) -> Table:
    def records(only: str | None) -> Iterator[tuple[str, Record]]:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except UnicodeDecodeError as error:
                    raise _not_text(path, error) from None
                except (ValueError, RecursionError):
                    record = None
                if not isinstance(record, dict):
                    raise DataError(
                        f"{path}, line {number}: expected a JSON object, found {line[:60]!r}; "
                        "write one object a line"
                    )
                yield f"line {number}", record

    first = itertools.islice(records(None), ROWS_FOR_COLUMNS)
    columns = dict.fromkeys(name for _, record in first for name in record)
    return Table(path, tuple(columns), records, {})


def _parquet(path: Path) -> Table:
    try:
        with pq.ParquetFile(path) as file:
            schema, total = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _no_parquet(path, error) from None

    def records(only: str | None) -> Iterator[tuple[str, Record]]:
        number = 0
        try:
            # By page, since a row group may be larger than memory.
            with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
                for batch in _batches(file, only):
                    for record in batch.to_pylist():
                        number += 1
                        yield f"row {number}", record
        except (pa.ArrowException, OSError) as error:
            raise _no_parquet(path, error) from None

    named = {column: classes_in(schema, column) for column in schema.names}
    classes = {column: names for column, names in named.items() if names}
    lists = [column for column in schema.names if is_list(schema.field(column).type)]
    return Table(path, tuple(schema.names), records, classes, total, lists)


def _batches(file: pq.ParquetFile, only: str | None) -> Iterator[pa.RecordBatch]:
    """A few rows at a time; fewer if pictures are large, and at least one.

    pyarrow reads one page at a time and holds it compressed and decompressed. The writer of the
    file has decided the size of its pages.
    """
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        rows = BYTES_AT_ONCE * group.num_rows // max(1, group.total_byte_size)
        at_once = max(1, min(rows, ROWS_AT_ONCE))
        yield from file.iter_batches(at_once, row_groups=[number], columns=only and [only])


def _no_parquet(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: expected a parquet file, found one that cannot be read: {error!s:.200}; fetch "
        "or write it again"
    )
