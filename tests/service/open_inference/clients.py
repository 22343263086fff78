"""Triton's own clients, both transports behind one face where the two differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from google.protobuf.json_format import MessageToJson
from tritonclient.utils import InferenceServerException

from tests.service.open_inference.conftest import WIDE, Spoken
from tests.service.systems import png

MODULES: dict[str, ModuleType] = {"http": tritonclient.http, "grpc": tritonclient.grpc}


class Client:
    """A client of one transport."""

    def __init__(self, transport: str, spoken: Spoken) -> None:
        self.transport = transport
        self.module: Any = MODULES[transport]
        self.url = {"http": spoken.http, "grpc": spoken.grpc}[transport]
        self.raw: Any = self.module.InferenceServerClient(self.url)

    def ask(self, call: str, *arguments: Any, **options: Any) -> Any:
        """A call's answer in the form of the protocol's JSON."""
        answer = getattr(self.raw, call)(*arguments, **options)
        return answer if answer is None or isinstance(answer, bool | dict | list) else plain(answer)

    def input(self, name: str, datatype: str, values: Any, **options: Any) -> Any:
        """An input with the values' shape."""
        array = values if isinstance(values, np.ndarray) else np.array(values, object)
        found = self.module.InferInput(name, list(array.shape), datatype)
        found.set_data_from_numpy(array, **options)
        return found

    def images(self, *files: bytes) -> Sequence[Any]:
        """An input of image files."""
        return [self.input("image", "BYTES", files)]

    def output(self, name: str, **options: Any) -> Any:
        """An output that is wanted."""
        return self.module.InferRequestedOutput(name, **options)


def plain(message: Any) -> Any:
    """A message as the protocol's JSON has it: 64-bit numbers are numbers."""

    def number(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: _number(name, value) for name, value in pairs}

    text = MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return json.loads(text, object_pairs_hook=number)


def _number(name: str, value: Any) -> Any:
    if name in ("shape", "dims"):
        return [int(one) for one in value]
    known = {"count", "ns", "batch_size", "last_inference", "inference_count", "execution_count"}
    return int(value) if name in known else value


REFUSED = {
    "http": {400: "400", 401: "401", 404: "404", 413: "413", 501: "501", 504: "504"},
    "grpc": {
        400: "StatusCode.INVALID_ARGUMENT",
        401: "StatusCode.UNAUTHENTICATED",
        404: "StatusCode.NOT_FOUND",
        413: "StatusCode.RESOURCE_EXHAUSTED",
        501: "StatusCode.UNIMPLEMENTED",
        504: "StatusCode.DEADLINE_EXCEEDED",
    },
}


def expected(spoken: Spoken, task: str, *seeds: int) -> np.ndarray:
    """Probabilities by class, as /classify gives them."""
    rows = []
    for seed in seeds:
        answer = spoken.server.ask(
            "POST",
            f"/classify/{task}?top_k={10 if task == WIDE else 3}",
            png(seed),
            {"content-type": "image/png"},
        )
        found = {one["index"]: one["probability"] for one in answer.json["predictions"]}
        rows.append([found[index] for index in sorted(found)])
    return np.array(rows)


def refused(client: Client, status: int, call: str, *arguments: Any, **options: Any) -> str:
    """The text with which a call is refused."""
    with pytest.raises(InferenceServerException) as error:
        client.ask(call, *arguments, **options)
    assert error.value.status() == REFUSED[client.transport][status], error.value
    assert error.value.message()
    return error.value.message()
