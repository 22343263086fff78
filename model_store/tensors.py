"""One component's arrays <-> canonical safetensors bytes (FORMAT.md, "Component").

Equal trees give equal bytes in any order of their dicts, and only such bytes are read back,
so that a component has one digest. Reading makes no copy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt

from model_store.canonical_json import decode_json, encode_json, shown
from model_store.errors import Malformed, Unstorable

Tree = npt.NDArray[Any] | Mapping[str, Any]  # a mapping's values are trees again

BARE = "/"  # tensor name of a component that is one array; no key path can give it
ALIGNMENT = 64  # bytes; where the data starts. A cache line, and enough for any vector load
MAX_HEADER_BYTES = 2**20
MAX_DEPTH = 16  # nested dicts
MAX_RANK = 32
MAX_TENSOR_BYTES = 2**40

DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BOOL": np.dtype("bool"),
    **{f"F{8 * n}": np.dtype(f"<f{n}") for n in (2, 4, 8)},
    **{f"I{8 * n}": np.dtype(f"<i{n}") for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": np.dtype(f"<u{n}") for n in (1, 2, 4, 8)},
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor as the header describes it; start and end are byte offsets into the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def encode(tree: Tree) -> bytes:
    """Canonical bytes of a component: nested dicts of arrays, or one bare array.

    Arrays may have any strides and byte order. Raises Unstorable, naming the array, for what the
    format cannot hold: other dtypes, empty dicts, keys that are empty or contain "/".
    """
    arrays = _flatten(tree)
    order = sorted(arrays, key=lambda name: _data_order(arrays[name].dtype, name))
    entries: list[_Entry] = []
    end = 0
    for name in order:
        array = arrays[name]
        start, end = end, end + array.nbytes
        entries.append(_Entry(name, _DTYPE_NAMES[array.dtype], array.shape, start, end))
    header = _header(entries)
    if len(header) > MAX_HEADER_BYTES + 8:
        raise Unstorable(f"component: header of {len(header)} bytes; limit {MAX_HEADER_BYTES}")
    # uint8 views, because bfloat16 arrays do not offer the buffer protocol
    return b"".join([header, *(arrays[name].reshape(-1).view(np.uint8).data for name in order)])


def _data_order(dtype: np.dtype[Any], name: str) -> tuple[int, str]:
    """Wide items first: as nothing pads the data, this alone keeps every tensor aligned."""
    return -dtype.itemsize, name


def _flatten(tree: Tree) -> dict[str, npt.NDArray[Any]]:
    if not isinstance(tree, Mapping):
        return {BARE: _storable(tree, BARE)}
    arrays: dict[str, npt.NDArray[Any]] = {}
    _collect(tree, (), arrays)
    return arrays


def _collect(
    tree: Mapping[str, Any], keys: tuple[str, ...], arrays: dict[str, npt.NDArray[Any]]
) -> None:
    where = "/".join(keys) or "component"
    if not tree:
        raise Unstorable(f"{where}: empty dict, expected at least one array")
    if len(keys) == MAX_DEPTH:
        raise Unstorable(f"{where}: nested deeper than {MAX_DEPTH} dicts")
    for key, value in tree.items():
        if not _is_key(key):
            raise Unstorable(f'{where}: key {key!r}, expected a non-empty string without "/"')
        if isinstance(value, Mapping):
            _collect(cast(Mapping[str, Any], value), (*keys, key), arrays)
        else:
            name = "/".join((*keys, key))
            arrays[name] = _storable(value, name)


def _is_key(key: object) -> bool:
    # safetensors gives "__metadata__" a meaning of its own
    return isinstance(key, str) and key != "" and "/" not in key and key != "__metadata__"


def _storable(value: object, name: str) -> npt.NDArray[Any]:
    """The array as the format stores it: C order, little endian, a supported dtype."""
    if not hasattr(value, "__array__"):
        raise Unstorable(f"{name}: {type(value).__name__}, expected an array; use numpy.asarray")
    array: npt.NDArray[Any] = np.asarray(value)
    little = array.dtype.newbyteorder("<")
    if little not in _DTYPE_NAMES:
        raise Unstorable(f"{name}: dtype {array.dtype}, expected one of {_supported()}")
    if not _within_limits(array.shape, array.dtype.itemsize):
        raise Unstorable(f"{name}: shape {array.shape} exceeds the format's limits")
    if little.kind == "b":
        array = array.view(np.uint8) != 0  # a view of other bytes as bool can hold 2 for true
    # ascontiguousarray alone would turn a scalar into a vector
    return np.ascontiguousarray(array, dtype=little).reshape(array.shape)


def _supported() -> str:
    return ", ".join(sorted(str(dtype) for dtype in _DTYPE_NAMES))


def _within_limits(shape: tuple[int, ...], item_bytes: int) -> bool:
    # zeros count as ones: numpy too refuses an empty array whose other axes overflow
    return len(shape) <= MAX_RANK and (
        math.prod(max(size, 1) for size in shape) * item_bytes <= MAX_TENSOR_BYTES
    )


def _header(entries: list[_Entry]) -> bytes:
    """Length prefix, canonical JSON, spaces up to a multiple of 64 bytes."""
    document = {
        entry.name: {
            "data_offsets": [entry.start, entry.end],
            "dtype": entry.dtype,
            "shape": list(entry.shape),
        }
        for entry in entries
    }
    text = encode_json(document, "component header")
    length = -(-(8 + len(text)) // ALIGNMENT) * ALIGNMENT - 8
    return length.to_bytes(8, "little") + text.ljust(length)


def decode(buffer: bytes | bytearray | memoryview) -> Tree:
    """The tree in a component's bytes; its arrays are read-only views on `buffer`.

    Raises Malformed, naming the tensor where there is one, for bytes that `encode` cannot have
    written.
    """
    view = memoryview(buffer).toreadonly().cast("B")
    header, data = _split(view)
    document = decode_json(header[8:], "component header")
    if not isinstance(document, dict) or not document:
        raise Malformed("component header: expected a JSON object with at least one tensor")
    named = cast(dict[str, object], document)
    entries = [_parse_entry(name, value) for name, value in named.items()]
    entries.sort(key=lambda entry: _data_order(DTYPES[entry.dtype], entry.name))
    _require_no_gaps(entries, len(data))
    if _header(entries) != header:
        raise Malformed(
            "component header: not canonical (sorted keys, no spaces but the padding at its end);"
            " read the file with safetensors and put it again"
        )
    entries.sort(key=lambda entry: entry.name)
    return _unflatten({entry.name: _view(data, entry) for entry in entries})


def _split(view: memoryview) -> tuple[bytes, memoryview]:
    """(length prefix and header, data)"""
    if len(view) < 8:
        raise Malformed(f"component: {len(view)} bytes, expected at least 8")
    length = int.from_bytes(view[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise Malformed(f"component: header of {length} bytes; the limit is {MAX_HEADER_BYTES}")
    if 8 + length > len(view):
        raise Malformed(f"component: header of {length} bytes in a file of {len(view)}")
    return bytes(view[: 8 + length]), view[8 + length :]


def _parse_entry(name: str, value: object) -> _Entry:
    fields = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    if set(fields) != {"data_offsets", "dtype", "shape"}:
        raise Malformed(f"tensor {shown(name)}: expected exactly data_offsets, dtype and shape")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Malformed(
            f"tensor {shown(name)}: dtype {shown(dtype)}, expected one of {', '.join(DTYPES)}"
        )
    if not _is_size_list(shape) or not _within_limits(tuple(shape), DTYPES[dtype].itemsize):
        raise Malformed(
            f"tensor {shown(name)}: shape {shown(shape)} is no list of sizes within the limits"
        )
    if not _is_size_list(offsets) or len(offsets) != 2:
        raise Malformed(
            f"tensor {shown(name)}: data_offsets {shown(offsets)}, expected [start, end]"
        )
    return _Entry(name, dtype, tuple(shape), offsets[0], offsets[1])


def _is_size_list(value: object) -> bool:
    return isinstance(value, list) and all(
        type(size) is int and size >= 0 for size in cast(list[object], value)
    )


def _require_no_gaps(entries: list[_Entry], data_bytes: int) -> None:
    """Every byte of the data belongs to exactly one tensor, in canonical order."""
    position = 0
    for entry in entries:
        expected = position + math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
        if (entry.start, entry.end) != (position, expected):
            raise Malformed(
                f"tensor {shown(entry.name)}: bytes {shown(entry.start)} to {shown(entry.end)},"
                f" expected {position} to {expected} for {entry.dtype} {list(entry.shape)}"
                " without hole or overlap"
            )
        position = expected
    if position != data_bytes:
        raise Malformed(
            f"component: {data_bytes} bytes of data, the header accounts for {position}"
        )


def _view(data: memoryview, entry: _Entry) -> npt.NDArray[Any]:
    array = np.ndarray(entry.shape, DTYPES[entry.dtype], buffer=data, offset=entry.start)
    if entry.dtype == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
        raise Malformed(f"tensor {shown(entry.name)}: bytes of BOOL other than 0 and 1")
    return array


def _unflatten(arrays: dict[str, npt.NDArray[Any]]) -> Tree:
    if list(arrays) == [BARE]:
        return arrays[BARE]
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        if len(parents) >= MAX_DEPTH or not all(_is_key(key) for key in (*parents, last)):
            raise Malformed(f"tensor {shown(name)}: not a path of at most {MAX_DEPTH} keys")
        node: dict[str, Any] | None = tree
        for key in parents:
            child = None if node is None else node.setdefault(key, {})
            node = cast(dict[str, Any], child) if isinstance(child, dict) else None
        if node is None or last in node:
            raise Malformed(f"tensor {shown(name)}: one tensor's name is the path to another")
        node[last] = array
    return tree
