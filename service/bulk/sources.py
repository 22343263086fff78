"""Where many images come from, and how one of them is read.

The law: the images of a source are in an order that is the same each time, and each has a name. A
folder, a pattern, a bucket, a list and a table of paths are one thing, a `Listing` of names. A
parquet file that has the images themselves is read from front to back, a few rows at a time.
"""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from model_store.files.buckets import Bucket, is_bucket
from service.client import calls
from service.client.calls import LARGEST_IMAGE
from service.client.errors import unreadable

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
LISTS = (".txt", ".list")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
COLUMNS = (
    "image", "file_name", "filename", "image_path", "filepath", "file_path", "path", "file",
    "source", "image_url", "url", "img",
)  # fmt: skip
ROWS_AT_ONCE = 4  # of a parquet file
FETCH_S = 60.0
Text = Mapping[str, Any]


class BadSource(Exception):
    """A source that has no images to give; the message says why."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image."""

    name: str
    read: Callable[[], bytes]  # raises BadImage, or StorageError where a bucket does not answer


class Source(Protocol):
    """Images in their order."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def items(self, start: int) -> Iterator[Item]:
        """From this one on."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What `source_of` makes it of again."""
        ...


class Reader:
    """Reads images by their names: files, objects in buckets, and what web servers have."""

    def __init__(self, root: str) -> None:
        """`root` is the folder that relative paths begin in."""
        self._root = Path(root)
        self._buckets: dict[str, Bucket] = {}
        self._http: httpx.Client | None = None

    def read(self, name: str) -> bytes:
        """Raises BadImage or StorageError."""
        if is_bucket(name):
            return self._object(name)
        if name.startswith(("http://", "https://")):
            return self._fetched(name)
        return calls.read(self._root / name)

    def _object(self, url: str) -> bytes:
        place = "/".join(url.split("/", 3)[:3])
        if place not in self._buckets:
            self._buckets[place] = Bucket(url)
        try:
            data = self._buckets[place].read(url, LARGEST_IMAGE)
        except ValueError as error:
            raise unreadable(str(error)) from None
        if data is None:
            raise unreadable("no such object")
        return data

    def _fetched(self, url: str) -> bytes:
        if self._http is None:
            self._http = httpx.Client(follow_redirects=True, timeout=FETCH_S)
        data = bytearray()
        try:
            with self._http.stream("GET", url) as response:
                if response.status_code != 200:
                    raise unreadable(f"expected a picture, found status {response.status_code}")
                for part in response.iter_bytes():
                    data += part
                    if len(data) > LARGEST_IMAGE:
                        raise unreadable("expected a picture, found more than one can have")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise unreadable(str(error) or type(error).__name__) from None
        return bytes(data)


@dataclass(frozen=True, slots=True)
class Listing:
    """Images by their names."""

    root: str  # the folder that relative paths begin in
    names: Sequence[str] = field(repr=False)
    left_out: int = 0  # files of other endings

    def __len__(self) -> int:
        return len(self.names)

    def items(self, start: int) -> Iterator[Item]:
        """As of Source."""
        reader = Reader(self.root)
        for name in self.names[start:]:
            yield Item(name, lambda name=name: reader.read(name))

    def to_json(self) -> dict[str, Any]:
        """As of Source."""
        return {"root": self.root, "names": list(self.names)}


@dataclass(frozen=True, slots=True)
class ParquetImages:
    """The images in a column of a parquet file; one that has changed is another source."""

    path: str
    column: str
    rows: int
    bytes: int
    changed_ns: int

    def __len__(self) -> int:
        return self.rows

    def items(self, start: int) -> Iterator[Item]:
        """As of Source."""
        reader = Reader(str(Path(self.path).parent))
        for number, value in enumerate(_rows_of(self.path, self.column, start), start + 1):
            yield _item(value, f"{Path(self.path).name}, row {number}", reader)

    def to_json(self) -> dict[str, Any]:
        """As of Source."""
        return {name: getattr(self, name) for name in self.__slots__}


def source_of(content: Mapping[str, Any]) -> Source:
    """A source as it was saved."""
    return Listing(**content) if "names" in content else ParquetImages(**content)


def open_sources(places: Sequence[str]) -> Source:
    """The images of all these places, one after the other. Raises BadSource or StorageError."""
    if any(_is_table(place) for place in places):
        if len(places) > 1:
            raise BadSource(f"expected a table alone, found {len(places)} sources with one")
        return _table(Path(places[0]))
    listings = [_listing(place) for place in places]
    roots = {one.root for one in listings}
    if len(roots) > 1:
        raise BadSource("expected one list of paths alone, or several that are in one folder")
    for place, one in zip(places, listings, strict=True):
        if not one.names:
            others = f", and {one.left_out} other files" if one.left_out else ""
            raise BadSource(
                f"{place}: expected pictures ({', '.join(ENDINGS)}), found none{others}"
            )
    names = [name for one in listings for name in one.names]
    return Listing(roots.pop(), names, sum(one.left_out for one in listings))


def _listing(place: str) -> Listing:
    here = os.getcwd()
    if is_bucket(place):
        if place.lower().endswith(ENDINGS):
            return Listing(here, [place])
        return _pictures(here, sorted(Bucket(place).urls(place)))
    if place.startswith(("http://", "https://")):
        return Listing(here, [place])
    try:
        path = Path(place)
        if path.is_dir():
            return _pictures(here, list(_files(place)))
        if path.name.lower().endswith(LISTS) and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            return Listing(str(path.resolve().parent), [line for line in lines if line.strip()])
        if os.path.lexists(place):
            return Listing(here, [place])
    except ValueError as error:  # a null byte, or a list that is no text
        raise BadSource(f"{place!r:.200}: {error}") from None
    if glob.has_magic(place):
        found = sorted(glob.glob(place, recursive=True))
        return _pictures(here, [name for name in found if not os.path.isdir(name)])
    raise BadSource(
        f"{place}: expected a file, a folder, a pattern, a list ({', '.join(LISTS)}), a table "
        f"({', '.join(TABLES)}) or a URL, found nothing there; correct the path"
    )


def _pictures(root: str, names: Sequence[str]) -> Listing:
    kept = [name for name in names if name.lower().endswith(ENDINGS)]
    return Listing(root, kept, len(names) - len(kept))


def _files(folder: str) -> Iterator[str]:
    """The visible files of a folder and those in it, by name."""
    inner: list[str] = []
    with os.scandir(folder) as found:
        entries = sorted((one for one in found if one.name[0] != "."), key=lambda one: one.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            inner.append(entry.path)
        elif not entry.is_dir():
            yield entry.path
    for one in inner:
        yield from _files(one)


# ---- tables


def _is_table(place: str) -> bool:
    return place.lower().endswith(TABLES) and "://" not in place and Path(place).exists()


def _table(path: Path) -> Source:
    ending = path.suffix.lower()
    try:
        if ending == ".parquet":
            return _parquet(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            if ending in (".jsonl", ".ndjson"):
                records: list[Text] = [json.loads(line) for line in file if line.strip()]
            else:
                delimiter = "\t" if ending == ".tsv" else ","
                records = list(csv.DictReader(file, delimiter=delimiter))
    except (ValueError, csv.Error) as error:
        raise BadSource(f"{path}: expected a table, found {error}") from None
    column = _column(path, list(records[0]) if records else [])
    return Listing(str(path.resolve().parent), [str(one.get(column) or "") for one in records])


def _parquet(path: Path) -> Source:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except pa.ArrowInvalid as error:
        raise BadSource(f"{path}: expected a parquet file, found {error}") from None
    column = _column(path, schema.names)
    if not rows:
        raise BadSource(f"{path}: expected rows, found none")
    if pa.types.is_string(schema.field(column).type):
        names = [str(value or "") for value in _rows_of(str(path), column, 0)]
        return Listing(str(path.resolve().parent), names)
    found = path.stat()
    return ParquetImages(str(path.resolve()), column, rows, found.st_size, found.st_mtime_ns)


def _rows_of(path: str, column: str, start: int) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False) as file:
        groups, before = list(range(file.metadata.num_row_groups)), 0
        while groups and before + (rows := file.metadata.row_group(groups[0]).num_rows) <= start:
            before += rows
            groups.pop(0)
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=[column]):
            for value in batch.column(0):
                if before >= start:
                    yield value.as_py()
                before += 1


def _item(value: Any, row: str, reader: Reader) -> Item:
    """The image of a cell: bytes, a name, or the Hub's form, which has both or one of them."""
    name = None
    if isinstance(value, Mapping):
        name, value = value.get("path"), value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return Item(str(name or row), lambda: value)
    if isinstance(value, str) and value:
        return Item(value, lambda: reader.read(value))

    def missing() -> bytes:
        raise unreadable("expected a picture or its path, found neither")

    return Item(row, missing)


def _column(path: Path, columns: Sequence[str]) -> str:
    lowered = {column.strip().lower(): column for column in reversed(columns)}
    found = next((lowered[name] for name in COLUMNS if name in lowered), None)
    if found is None:
        raise BadSource(
            f"{path}: expected a column of pictures or their paths, as {', '.join(COLUMNS[:4])}, "
            f"found {', '.join(columns[:12]) or 'none'}; rename one"
        )
    return found
