"""Tensors of the protocol <-> arrays, with every size checked before anything is made of it.

Binary data is little-endian and row-major; an element of BYTES is its length in four bytes and then
itself. JSON numbers may be nested or flat; an element of BYTES in JSON is base64.
"""

from __future__ import annotations

import binascii
import math
import struct
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.open_inference.errors import BadRequest, shown

ANY = -1
LENGTH = struct.Struct("<I")
DTYPES = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor that a model takes or gives; ANY stands for a size that the sender chooses."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    sizes: str = ""  # the shape as error messages show it


@dataclass(frozen=True, slots=True)
class Sent:
    """A tensor as it was sent; nothing is checked yet."""

    name: object
    datatype: object
    shape: object
    data: object = None  # values from JSON or a message
    raw: memoryview | None = None  # or binary data


def images(sent: Sent, spec: Spec, most: int) -> list[bytes]:
    """The elements of a BYTES tensor [n, 1] of 1 to `most` elements; its shape may be [n]."""
    if isinstance(sent.shape, list) and len(sent.shape) == 1:
        sent = replace(sent, shape=[*sent.shape, 1])
    count = _shape(sent, spec, most)[0]
    found = _split(sent, sent.raw, count) if sent.raw is not None else _texts(sent)
    if len(found) != count:
        number = "more" if sent.raw is not None and len(found) > count else len(found)
        raise BadRequest(f"input {spec.name!r}: expected {count} elements, found {number}")
    return found


def numbers(sent: Sent, spec: Spec, most: int) -> NDArray[Any]:
    """An array of the tensor's type and shape, of 1 to `most` rows."""
    shape = _shape(sent, spec, most)
    dtype = DTYPES[spec.datatype]
    if sent.raw is not None:
        expected = math.prod(shape) * dtype.itemsize
        if len(sent.raw) != expected:
            raise BadRequest(
                f"input {spec.name!r}: expected {expected} bytes for {spec.datatype} "
                f"{list(shape)}, found {len(sent.raw)}"
            )
        return np.frombuffer(sent.raw, dtype).reshape(shape)
    return _values(sent, spec, shape).astype(dtype)


def _shape(sent: Sent, spec: Spec, most: int) -> tuple[int, ...]:
    """The shape, which fits the specification."""
    shape = sent.shape
    if not isinstance(shape, Sequence) or not all(type(d) is int and d > 0 for d in shape):
        raise BadRequest(
            f"input {spec.name!r}: expected a shape of whole numbers above zero, "
            f"found {shown(shape)}"
        )
    fits = len(shape) == len(spec.shape) and all(
        wanted in (ANY, found) for wanted, found in zip(spec.shape, shape, strict=True)
    )
    if sent.datatype != spec.datatype or not fits:
        raise BadRequest(
            f"input {spec.name!r}: expected {spec.datatype} [{spec.sizes}], "
            f"found {shown(sent.datatype)} {shown(list(shape))}"
        )
    if shape[0] > most:
        raise BadRequest(
            f"input {spec.name!r}: expected at most {most} rows, found {shown(shape[0])}"
        )
    return tuple(shape)


def _split(sent: Sent, raw: memoryview, most: int) -> list[bytes]:
    """The elements; of more than `most`, only one more: an empty one takes four bytes."""
    found: list[bytes] = []
    place = 0
    while place < len(raw) and len(found) <= most:
        start = place + LENGTH.size
        if start > len(raw):
            raise BadRequest(f"input {shown(sent.name)}: {len(raw) - place} bytes too many")
        (length,) = LENGTH.unpack(raw[place:start])
        place = start + length
        if place > len(raw):
            raise BadRequest(
                f"input {shown(sent.name)}: an element of {length} bytes, found {len(raw) - start}"
            )
        found.append(bytes(raw[start:place]))
    return found


def _texts(sent: Sent) -> list[bytes]:
    found: list[bytes] = []
    for element in _flat(sent.data):
        if isinstance(element, bytes):
            found.append(element)
            continue
        try:
            found.append(b64decode(element, validate=True))
        except (TypeError, ValueError, binascii.Error):
            raise BadRequest(
                f"input {shown(sent.name)}: expected base64, found {shown(element)}"
            ) from None
    return found


def _flat(data: object) -> Sequence[Any]:
    """Elements that stand in one list, or each in a list of its own as in a shape [n, 1]."""
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise BadRequest(f"expected a list of elements, found {shown(data)}")
    return [e[0] if isinstance(e, list) and len(e) == 1 else e for e in data]


def _values(sent: Sent, spec: Spec, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if not isinstance(sent.data, Sequence) or isinstance(sent.data, str):
        raise BadRequest(f"input {spec.name!r}: expected data, found {shown(sent.data)}")
    try:
        # Straight to numbers: a list with one long text among them would become an array of texts.
        found = np.array(sent.data, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRequest(f"input {spec.name!r}: expected numbers: {error}"[:200]) from None
    if found.shape not in (shape, (math.prod(shape),)):
        raise BadRequest(
            f"input {spec.name!r}: expected {math.prod(shape)} values, found {found.size}"
        )
    if spec.datatype == "UINT8" and not ((found >= 0) & (found <= 255) & (found % 1 == 0)).all():
        raise BadRequest(f"input {spec.name!r}: expected whole numbers from 0 to 255")
    return found.reshape(shape)


def binary(array: NDArray[np.float32] | Sequence[bytes]) -> bytes:
    """A tensor's binary data."""
    if isinstance(array, np.ndarray):
        return array.astype("<f4").tobytes()
    return b"".join(LENGTH.pack(len(element)) + element for element in array)
