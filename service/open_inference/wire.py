"""Counts the fields of a request to infer, and reads its model's name, before it is parsed.

A submessage of two bytes takes hundreds of bytes when it is parsed. So fields are counted first.
That is cheap: the contents of fields are skipped, and it ends at too many fields.
"""

from __future__ import annotations

from typing import Any

from service.open_inference.errors import BadRequest
from service.open_inference.inference_pb2 import ModelInferRequest

MAX_FIELDS = 4096  # of a request and what is in it; an array of numbers is one
FEW_FIELDS = 64  # to look at this many takes some 50 microseconds
MAX_NAME = 1024  # bytes
NAME, VERSION = 1, 2  # fields of ModelInferRequest
ROOT = ModelInferRequest.DESCRIPTOR


def _submessages(kind: Any, found: dict[str, dict[int, str]]) -> dict[str, dict[int, str]]:
    """Of each kind of message its fields that are messages themselves, by number."""
    inside = {one.number: one.message_type for one in kind.fields if one.message_type is not None}
    found[kind.full_name] = {number: one.full_name for number, one in inside.items()}
    for one in inside.values():
        if one.full_name not in found:
            _submessages(one, found)
    return found


SUBMESSAGES = _submessages(ROOT, {})


class ManyFields(BadRequest):
    """A message has more fields than are looked at."""


def model_of(data: bytes, most: int = MAX_FIELDS) -> tuple[str, str]:
    """Name and version of the model that a ModelInferRequest is for.

    Raises BadRequest if the bytes cannot be parsed or a name is too long, ManyFields of more than
    `most` fields.
    """
    names = {NAME: "", VERSION: ""}
    fields = 0
    waiting = [(0, len(data), ROOT.full_name)]
    try:
        while waiting:
            at, end, kind = waiting.pop()
            inside = SUBMESSAGES[kind]
            while at < end:
                fields += 1
                if fields > most:
                    raise ManyFields(f"the message has more than {most} fields")
                number, start, at = _field(data, at, end)
                if number in inside:
                    waiting.append((start, at, inside[number]))
                elif kind == ROOT.full_name and number in names:
                    if at - start > MAX_NAME:
                        raise BadRequest(f"a name of {at - start} bytes, at most {MAX_NAME}")
                    names[number] = data[start:at].decode()
    except (IndexError, ValueError):  # cut short, not UTF-8, or a type that there is not
        raise no_message(data, ROOT.name) from None
    return names[NAME], names[VERSION]


def no_message(data: bytes, kind: str) -> BadRequest:
    """What is said of bytes that cannot be parsed."""
    return BadRequest(f"expected a {kind}, found {len(data)} bytes that cannot be parsed")


def _field(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """A field's number, and where its content begins and ends; 0 for a field without a length.

    Raises IndexError or ValueError.
    """
    tag, at = _number(data, at)
    number, form = tag >> 3, tag & 7
    start = at
    if form == 0:
        _, at = _number(data, at)
    elif form == 2:
        size, start = _number(data, at)
        at = start + size
    elif form in (1, 5):
        at += 8 if form == 1 else 4
    else:
        raise ValueError(form)
    if at > end or not 0 < number < 1 << 29:
        raise ValueError(number)
    return number if form == 2 else 0, start, at


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(value)
