"""A request to infer, the same for both transports: inputs, wanted outputs, parameters.

A transport gives the request as the protocol's JSON, with the binary data of each input that has
some. This file checks everything before anything is decoded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.errors import TooLarge
from service.open_inference.errors import BadRequest, NotSupported, shown
from service.open_inference.models import FEATURES, OUTPUTS, USUAL_OUTPUTS
from service.open_inference.tensors import Sent

MAX_ID_CHARACTERS = 256
# In JSON, which together take some 50 ms.
COUNTED = ((b",", 2**20, "values"), (b"[", 2**18, "lists"), (b"{", 2**16, "objects"))
MAX_INPUTS = 16  # of which only one is taken; more are not even looked at
MOST = 2**63 - 1  # of a whole number, as in gRPC
SHARED_MEMORY = "shared_memory_region"


@dataclass(frozen=True, slots=True)
class Output:
    """An output that is wanted."""

    name: str
    binary: bool
    classes: int = 0  # if not 0: this many of the best as text instead of the numbers


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client asks of a model."""

    id: str
    input: Sent
    outputs: Sequence[Output]
    priority: int = 0  # 1 is the most urgent, 0 the default
    timeout_s: float | None = None
    depth: int | None = None  # of the output `features`


def parse_json(body: memoryview) -> Any:
    """The JSON in a body; blocks. Raises BadRequest, or TooLarge for too many values.

    Nothing else in this process runs meanwhile, in any thread: so its time is bounded.
    """
    text = bytes(body)
    for mark, most, what in COUNTED:
        if text.count(mark) > most:
            raise TooLarge(
                f"the JSON has more than the {most} {what} that are accepted: send fewer rows, or "
                "the tensor as binary data"
            )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"reading the JSON: {error}"[:200]) from None


def parse_body(body: memoryview, header_size: int | None) -> InferRequest:
    """An HTTP body: JSON of `header_size` bytes (None is all), then the inputs' binary data.

    If `header_size` is 0, the whole body is one image. Blocks; raises BadRequest or NotSupported.
    """
    if header_size == 0:
        image = Sent("image", "BYTES", [1], data=[bytes(body)])
        return InferRequest("", image, [Output(name, binary=False) for name in USUAL_OUTPUTS])
    if header_size is not None and header_size > len(body):
        raise BadRequest(f"a JSON header of {header_size} bytes in a body of {len(body)}")
    content = _object("the request", parse_json(body[:header_size]))
    tail = body[len(body) if header_size is None else header_size :]
    raw: list[memoryview | None] = []
    for one in _list("inputs", content.get("inputs")):
        size = _parameters(_object("an input", one)).get("binary_data_size")
        if size is None:
            raw.append(None)
            continue
        _whole("binary_data_size", size)
        if size > len(tail):
            raise BadRequest(f"binary data: expected {shown(size)} bytes, found {len(tail)}")
        raw.append(tail[:size])
        tail = tail[size:]
    if len(tail):
        raise BadRequest(f"binary data: {len(tail)} bytes more than the inputs' binary_data_size")
    return parse(content, raw)


def parse(content: Mapping[str, Any], raw: Sequence[memoryview | None]) -> InferRequest:
    """A request whose inputs' binary data, if any, is `raw`. Raises BadRequest or NotSupported."""
    name = content.get("id", "")
    if not isinstance(name, str) or len(name) > MAX_ID_CHARACTERS:
        raise BadRequest(
            f"id: expected a text of at most {MAX_ID_CHARACTERS} characters, found {shown(name)}"
        )
    inputs = _list("inputs", content.get("inputs"))
    if len(inputs) != 1:
        raise BadRequest(f"expected one input, found {len(inputs)}")
    parameters = _parameters(content)
    every = parameters.get("binary_data_output", False)
    timeout_us = _whole("timeout", parameters.get("timeout", 0))
    return InferRequest(
        id=name,
        input=_input(_object("an input", inputs[0]), raw[0]),
        outputs=_outputs(content.get("outputs"), _flag("binary_data_output", every)),
        priority=_whole("priority", parameters.get("priority", 0)),
        timeout_s=timeout_us / 1e6 if timeout_us else None,
        depth=_count("depth", parameters["depth"]) if "depth" in parameters else None,
    )


def _input(content: Mapping[str, Any], raw: memoryview | None) -> Sent:
    parameters = _parameters(content)
    encoding = parameters.get("content_type", "base64")
    if encoding != "base64":
        raise BadRequest(f"content_type: expected 'base64', found {shown(encoding)}")
    data = content.get("data")
    if raw is not None and data:
        raise BadRequest("an input with both data and binary data")
    return Sent(content.get("name"), content.get("datatype"), content.get("shape"), data, raw)


def _outputs(wanted: Any, every_binary: bool) -> Sequence[Output]:
    """The outputs, the usual ones if none is named."""
    if wanted is None or wanted == []:
        return [Output(name, every_binary) for name in USUAL_OUTPUTS]
    found: dict[str, Output] = {}
    for one in _list("outputs", wanted):
        content = _object("an output", one)
        name, parameters = content.get("name"), _parameters(content)
        if not isinstance(name, str) or name not in OUTPUTS or name in found:
            raise BadRequest(f"outputs: expected each of {list(OUTPUTS)} once, found {shown(name)}")
        binary = _flag("binary_data", parameters.get("binary_data", every_binary))
        classes = _count("classification", parameters.get("classification", 0))
        if classes and name == FEATURES:
            raise BadRequest("outputs: features have no labels to classify by; ask without")
        found[name] = Output(name, binary, classes)
    return list(found.values())


def _parameters(content: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _object("parameters", content.get("parameters") or {})
    if SHARED_MEMORY in found:
        raise NotSupported("shared memory: send the tensors themselves")
    return found


def _object(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadRequest(f"{name}: expected an object, found {shown(value)}")
    return value


def _list(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list) or len(value) > MAX_INPUTS:
        raise BadRequest(
            f"{name}: expected a list of at most {MAX_INPUTS} objects, found {shown(value)}"
        )
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"{name}: expected true or false, found {shown(value)}")
    return value


def _count(name: str, value: Any) -> int:
    """A number of things, of which nobody has more than MOST."""
    return _whole(name, min(value, MOST) if type(value) is int else value)


def _whole(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        raise BadRequest(f"{name}: expected a whole number from 0 to {MOST}, found {shown(value)}")
    return value
