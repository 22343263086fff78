"""Published checkpoint files: Flax's msgpack format, read layer by layer (SYSTEMS.md, Arrays).

A file is one map of layers, each a map of arrays. Opening it reads only the map's keys and the
arrays' shapes, a few bytes each, and the positions of the numbers. So a file larger than memory
takes the memory of its largest layer, and all faults are found before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from model_store.tensors import Tree

DTYPES = {"float32": np.dtype("<f4"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
CHUNKED = "__msgpack_chunked_array__"  # marks the map that stands for an array of over 1 GiB
ARRAY, NUMBER = 1, 3  # extension types: an array, and one number in the same form
MAX_AXES = 32
MAX_DEPTH = 16  # maps in maps; blocks have 4
MAX_NAME = 4096  # bytes; names are read whole, and messages contain them
MAX_ENTRIES = 200_000  # names in a file; the largest published one has some thousand
MAX_DIMENSION = (1 << 31) - 1
_LONGEST = 1000  # characters of a message


class CheckpointError(Exception):
    """A published state cannot be imported; the message names file and place, and says why.

    It is one line of limited length, for any content of the file.
    """

    def __init__(self, message: str) -> None:
        """`message` may contain text from a file."""
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message[: 2 * _LONGEST])
        half = _LONGEST // 2
        super().__init__(text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}")


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in a file, not read yet."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]  # (offset, bytes) of its parts in the file

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements."""
        return self.size * self.dtype.itemsize


Layer = Any  # StoredArray, or dict of layers: a tree whose arrays are still in the file


def arrays(layer: Layer, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, StoredArray]]:
    """All arrays of a layer, each with the keys to it, joined by "/"; sorted."""
    if isinstance(layer, StoredArray):
        yield "/".join(keys), layer
    else:
        for key in sorted(layer):
            yield from arrays(layer[key], (*keys, key))


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A checkpoint's layers by their names in the file."""

    path: Path
    layers: Mapping[str, Layer]

    @classmethod
    def open(cls, path: Path) -> CheckpointFile:
        """Finds the layers of a file. Raises CheckpointError, naming layer and byte offset."""
        with path.open("rb") as file:
            return cls(path, _Scanner(path, file).layers())

    def read(self, name: str) -> Tree:
        """One layer's arrays. Raises CheckpointError if the file has changed."""
        with self.path.open("rb") as file:
            return self._tree(file, name, self.layers[name])

    def _tree(self, file: BufferedReader, name: str, layer: Layer) -> Tree:
        if isinstance(layer, StoredArray):
            return self._array(file, name, layer)
        return {key: self._tree(file, name, child) for key, child in layer.items()}

    def _array(self, file: BufferedReader, name: str, stored: StoredArray) -> NDArray[Any]:
        array = np.empty(stored.size_bytes, np.uint8)
        start = 0
        for offset, length in stored.spans:
            file.seek(offset)
            if file.readinto(array[start : start + length].data) != length:
                raise CheckpointError(
                    f"{self.path}: layer {name}: the file became shorter while it was read"
                )
            start += length
        return array.view(stored.dtype).reshape(stored.shape)


# First byte -> kind, and the number of bytes of its length or value. Without the kinds that Flax
# never writes; small numbers and short strings, arrays and maps are in `_Scanner._head`.
_HEADS = {
    0xC2: ("false", 0), 0xC3: ("true", 0), 0xC4: ("binary", 1), 0xC5: ("binary", 2),
    0xC6: ("binary", 4), 0xC7: ("extension", 1), 0xC8: ("extension", 2), 0xC9: ("extension", 4),
    0xCC: ("number", 1), 0xCD: ("number", 2), 0xCE: ("number", 4), 0xCF: ("number", 8),
    0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4), 0xDC: ("list", 2), 0xDD: ("list", 4),
    0xDE: ("map", 2), 0xDF: ("map", 4),
}  # fmt: skip
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


class _Scanner:
    """Reads through a file from its beginning, and skips the numbers."""

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self._path, self._file = path, file
        self._end = path.stat().st_size
        self._layer = ""  # the present one, for messages
        self._names = 0  # read so far

    def layers(self) -> dict[str, Layer]:
        """The file's one map. Raises CheckpointError."""
        found: dict[str, Layer] = {}
        for _ in range(self._expect("map")):
            name = self._text()
            self._layer = f"layer {name}: "
            if name in found:
                raise self._error("the layer is there twice, expected every name once")
            found[name] = self._finished(self._value(MAX_DEPTH))
        if self._file.tell() != self._end:
            left = self._end - self._file.tell()
            raise self._error(f"the map of layers ends here, but {left} bytes follow")
        return found

    def _value(self, depth: int) -> Any:
        kind, value = self._head()
        if kind == "map" and depth:
            entries: dict[str, Any] = {}
            for _ in range(value):
                key = self._text()
                if key in entries:
                    raise self._error(f"key {key!r} twice in one map")
                entries[key] = self._value(depth - 1)
            return self._joined(entries) if CHUNKED in entries else entries
        if kind == "extension":
            return self._array(value)
        if kind in ("number", "true", "false"):
            return value
        raise self._error(f"found a {kind}, expected arrays in at most {MAX_DEPTH} nested maps")

    def _array(self, length: int) -> StoredArray:
        """Extension type, then (shape, dtype, bytes) as msgpack."""
        code = self._number(1)
        end = self._file.tell() + length
        if code not in (ARRAY, NUMBER):
            raise self._error(f"extension type {code}, expected an array ({ARRAY})")
        if self._expect("list") != 3:
            raise self._error("expected an array as shape, dtype and bytes")
        axes = self._expect("list")
        if axes > MAX_AXES:
            raise self._error(f"an array of {axes} axes, expected at most {MAX_AXES}")
        shape = tuple(self._expect("number") for _ in range(axes))
        dtype = self._text()
        if dtype not in DTYPES:
            raise self._error(f"unknown dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
        size = self._expect("binary")
        self._require_size(DTYPES[dtype], shape, size)
        span = (self._file.tell(), size)
        self._skip(size)
        if self._file.tell() != end:
            raise self._error("an array's length disagrees with what it holds")
        return StoredArray(DTYPES[dtype], shape, (span,))

    def _joined(self, entries: dict[str, Any]) -> StoredArray:
        """The array that a map of chunks stands for."""
        try:
            shape = tuple(entries["shape"][str(i)] for i in range(len(entries["shape"])))
            chunks = [entries["chunks"][str(i)] for i in range(len(entries["chunks"]))]
            spans = tuple(span for chunk in chunks for span in chunk.spans)
            (dtype,) = {chunk.dtype for chunk in chunks}
            self._require_size(dtype, shape, sum(length for _, length in spans))
        except (KeyError, TypeError, AttributeError, ValueError):
            raise self._error("a chunked array without its shape or with unlike chunks") from None
        return StoredArray(dtype, shape, spans)

    def _require_size(self, dtype: np.dtype[Any], shape: tuple[int, ...], found: int) -> None:
        if not all(1 <= dimension <= MAX_DIMENSION for dimension in shape):
            raise self._error(
                f"array of shape {str(list(shape))[:100]}, expected axes of 1 to {MAX_DIMENSION:,}"
            )
        expected = math.prod(shape) * dtype.itemsize
        if expected != found:
            raise self._error(
                f"{dtype} array of shape {list(shape)} has {found} bytes, expected {expected}"
            )

    def _finished(self, value: Any) -> Layer:
        """The value, if it consists of arrays in maps that are not empty."""
        children = value.values() if isinstance(value, dict) else ()
        if not isinstance(value, StoredArray) and not children:
            raise self._error("found no array, expected an array or a map of arrays")
        for child in children:
            self._finished(child)
        return value

    # ---- msgpack's own forms

    def _head(self) -> tuple[str, int]:
        """Kind of the next object, and its value, length in bytes or number of entries."""
        first = self._number(1)
        if first < 0x80:
            return "number", first
        if first < 0xC0:
            kind = "map" if first < 0x90 else "list" if first < 0xA0 else "text"
            return kind, first & (0x1F if kind == "text" else 0x0F)
        if first in _FIXED_EXTENSIONS:
            return "extension", _FIXED_EXTENSIONS[first]
        if first not in _HEADS:
            raise self._error(f"byte {first:#04x} begins nothing that a checkpoint holds")
        kind, width = _HEADS[first]
        return kind, self._number(width) if width else int(kind == "true")

    def _expect(self, kind: str) -> int:
        found, value = self._head()
        if found != kind:
            raise self._error(f"found a {found}, expected a {kind}; is it a Flax checkpoint?")
        return value

    def _text(self) -> str:
        length = self._expect("text")
        self._names += 1
        if self._names > MAX_ENTRIES:
            raise self._error(f"more than {MAX_ENTRIES:,} names, expected the layers of a network")
        if length > MAX_NAME:
            raise self._error(f"a name of {length} bytes, expected at most {MAX_NAME}")
        try:
            return self._bytes(length).decode()
        except UnicodeDecodeError:
            raise self._error("a name is not UTF-8") from None

    def _number(self, width: int) -> int:
        return int.from_bytes(self._bytes(width), "big")

    def _bytes(self, length: int) -> bytes:
        self._require(length)
        return self._file.read(length)

    def _skip(self, length: int) -> None:
        self._require(length)
        self._file.seek(length, 1)

    def _require(self, length: int) -> None:
        left = self._end - self._file.tell()
        if length > left:
            raise self._error(
                f"the file ends here: {left} bytes are left, expected {length}; it is truncated, "
                "fetch it again"
            )

    def _error(self, what: str) -> CheckpointError:
        at = self._file.tell()
        return CheckpointError(f"reading checkpoint {self._path}: {self._layer}{what} (byte {at})")
