"""A body of any content is taken or refused by name: nothing else, and within its limits."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import GatewayError, TooLarge
from service.open_inference import tensors
from service.open_inference.errors import BadRequest
from service.open_inference.inference import prepare
from service.open_inference.requests import InferRequest, parse_body, parse_json
from service.settings import Settings
from tests.service.in_process import Gateway
from tests.service.systems import png
from tests.service.waiting import eventually

LENGTH = tensors.LENGTH
LIMITS = Settings("unused", max_batch_rows=4, max_pixels=10_000)
NAMES = st.sampled_from(["image", "pixels", "preprocessed", "probabilities", "logits", ""])
TYPES = st.sampled_from(["BYTES", "UINT8", "FP32", "INT64", ""])
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([2**63, 2**64, 10**400]))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        *("binary_data_size", "binary_data", "binary_data_output", "classification"),
        *("priority", "timeout", "content_type", "shared_memory_region", "other"),
    ]
)
PARAMETERS = st.dictionaries(KEYS, ANYTHING, max_size=3) | ANYTHING
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": NAMES | ANYTHING,
        "datatype": TYPES | ANYTHING,
        "shape": st.lists(st.integers(-1, 20), max_size=5) | ANYTHING,
        "parameters": PARAMETERS,
        "data": ANYTHING,
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=3) | ANYTHING},
    optional={
        "id": ANYTHING,
        "parameters": PARAMETERS,
        "outputs": st.lists(TENSORS, max_size=3) | ANYTHING,
    },
)


class Path:
    """As much of a loaded path as parsing needs."""

    labels = ("a", "b", "c")
    walks = (SimpleNamespace(target=16),)


def read(body: bytes, header_size: int | None) -> tuple[InferRequest, list[Any]]:
    """A body's request and images, as a transport reads them."""
    path: Any = Path()
    request, sources = prepare(parse_body(memoryview(body), header_size), path, LIMITS, bytes)
    looked = [source.look(LIMITS.max_pixels) for source in sources]
    return request, [image.decoded([16])[16] for image in looked]


def taken_or_refused(body: bytes, header_size: int | None) -> None:
    try:
        _, images = read(body, header_size)
    except GatewayError as error:
        assert 400 <= error.status < 500 or error.status == 501
        assert 0 < len(error.detail) < 1000
    else:
        assert 1 <= len(images) <= 4
        assert all(image.pixels.shape == (16, 16, 3) for image in images)
        assert all(np.isfinite(image.pixels).all() for image in images)


@settings(max_examples=100, deadline=None)
@given(REQUESTS, st.binary(max_size=60))
def test_any_json(content: Any, tail: bytes) -> None:
    header = json.dumps(content).encode()
    taken_or_refused(header + tail, len(header))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
def test_any_bytes(body: bytes, size: int | None) -> None:
    taken_or_refused(body, size)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_good_request_with_a_flaw(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["image", "pixels", "preprocessed"]))
    tensor, raw = good(kind)
    flaw = data.draw(st.sampled_from(["none", "cut", "longer", "size", "shape", "type", "flip"]))
    if flaw == "cut":
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    elif flaw == "longer":
        raw += data.draw(st.binary(min_size=1, max_size=9))
    elif flaw == "size":
        tensor["parameters"]["binary_data_size"] = data.draw(st.integers(-1, 2 * len(raw)))
    elif flaw == "shape":
        tensor["shape"][data.draw(st.integers(0, len(tensor["shape"]) - 1))] = data.draw(
            st.integers(-5, 2**70)
        )
    elif flaw == "type":
        tensor["datatype"] = data.draw(TYPES)
    elif flaw == "flip":
        place = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:place] + data.draw(st.binary(min_size=1, max_size=4)) + raw[place + 1 :]
    header = json.dumps({"inputs": [tensor]}).encode()
    if flaw == "none":
        assert len(read(header + raw, len(header))[1]) == 2
    else:
        taken_or_refused(header + raw, len(header))


def good(kind: str) -> tuple[dict[str, Any], bytes]:
    """An input of two rows with its binary data."""
    if kind == "image":
        raw = b"".join(struct.pack("<I", len(one)) + one for one in (png(1), png(2)))
        shape, datatype = [2, 1], "BYTES"
    elif kind == "pixels":
        raw, shape, datatype = bytes(2 * 5 * 7 * 3), [2, 5, 7, 3], "UINT8"
    else:
        raw, shape, datatype = bytes(2 * 16 * 16 * 3 * 4), [2, 16, 16, 3], "FP32"
    size = {"binary_data_size": len(raw)}
    return {"name": kind, "datatype": datatype, "shape": shape, "parameters": size}, raw


@pytest.mark.parametrize("one", [b"1", b"[1]", b"{}"])
def test_the_time_of_json_is_bounded(one: bytes) -> None:
    """The parser lets nothing else run, in any thread."""
    most = {b"1": 2**20, b"[1]": 2**18, b"{}": 2**16}[one]
    assert len(parse_json(memoryview(b"[" + b",".join([one] * (most - 1)) + b"]"))) == most - 1
    with pytest.raises(TooLarge, match=f"more than the {most} .*binary data"):
        parse_json(memoryview(b"[" + b",".join([one] * (most + 2)) + b"]"))


def json_body(**changes: Any) -> bytes:
    """A request with one image, changed."""
    image = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "data": [b64encode(png(1)).decode()],
    }
    return json.dumps({"inputs": [{**image, **changes}]}).encode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "reading the JSON"),
        (b"[" * 100_000, "reading the JSON"),
        (b"9" * 5000, "reading the JSON"),
        (b"[]", "the request: expected an object"),
        (b'{"inputs": {}}', "inputs: expected a list"),
        (b'{"inputs": []}', "expected one input, found 0"),
        (b'{"inputs": [1]}', "an input: expected an object"),
        (json_body(shape=[10**300]), "at most 4 rows"),
        (json_body(shape=[True]), "whole numbers above zero"),
        (json_body(shape=[0]), "whole numbers above zero"),
        (json_body(shape=[2]), "expected 2 elements, found 1"),
        (json_body(data=["äö"]), "expected base64"),
        (json_body(data=[["x", "y"]]), "expected base64"),
        (json_body(data="text"), "expected a list of elements"),
        (json_body(parameters={"content_type": "str"}), "expected 'base64', found 'str'"),
        (
            json_body(name="pixels", datatype="UINT8", shape=[1, 1, 1, 3], data=[1, 2, 256]),
            "whole numbers from 0 to 255",
        ),
        (
            json_body(name="pixels", datatype="UINT8", shape=[1, 1, 1, 3], data=[1, "x" * 10**5]),
            "expected numbers",
        ),
        (
            json_body(name="pixels", datatype="UINT8", shape=[1, 200, 200, 3], data=[1]),
            "expected 120000 values, found 1",
        ),
    ],
)
def test_refusals_say_what_was_expected(body: bytes, said: str) -> None:
    with pytest.raises(GatewayError) as error:
        read(body, None)
    assert error.value.status == 400
    assert said in error.value.detail
    assert len(error.value.detail) < 500


def test_of_too_many_elements_only_one_more_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted:
        size, read = tensors.LENGTH.size, 0

        def unpack(self, data: Any) -> Any:
            self.read += 1
            return LENGTH.unpack(data)

    counted = Counted()
    monkeypatch.setattr(tensors, "LENGTH", counted)
    spec = tensors.Spec("image", "BYTES", (tensors.ANY, 1), "n, 1")
    sent = tensors.Sent("image", "BYTES", [2, 1], raw=memoryview(bytes(4 * 10_000)))
    with pytest.raises(BadRequest, match="expected 2 elements, found more"):
        tensors.images(sent, spec, 4)
    assert counted.read == 3


def test_one_image_alone() -> None:
    request, images = read(png(1), 0)
    assert len(images) == 1
    assert [output.name for output in request.outputs] == ["probabilities", "logits"]


@pytest.mark.parametrize(
    ("tensor", "size"),
    [
        ({"name": "image", "datatype": "BYTES", "shape": [1], "data": ["AAAA"]}, 3),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [0] * 6}, 6),
        ({"name": "preprocessed", "datatype": "FP32", "shape": [1, 1, 2, 3], "data": [0] * 6}, 24),
    ],
)
def test_of_a_tensor_in_json_only_what_images_need_is_kept(tensor: Any, size: int) -> None:
    kept: list[bytes] = []
    path: Any = Path()
    asked = parse_body(memoryview(json.dumps({"inputs": [tensor]}).encode()), None)
    asked, _ = prepare(asked, path, LIMITS, lambda data: kept.append(data) or data)
    assert [len(one) for one in kept] == [size]
    assert asked.input.data is None


def test_over_http_the_limits_hold(gateway: Gateway) -> None:
    def ask(body: bytes, **headers: str) -> Any:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = gateway.request("POST", "/v2/models/plain/infer", content=body, headers=names)
        return reply.status_code, reply.json()

    eventually(lambda: ask(json_body())[0] == 200)
    assert ask(json_body(), content_encoding="br")[0] == 415
    assert ask(json_body(), content_encoding="gzip")[0] == 400
    assert ask(b"x" * 100_001)[0] == 413
    assert ask(json_body(), inference_header_content_length="-1")[0] == 400
    assert ask(json_body(), inference_header_content_length="9" * 9)[0] == 400
    assert ask(png(1), inference_header_content_length="0")[0] == 200
    status, problem = ask(json_body(name="x" * 90_000))
    assert status == 400
    assert problem["error"] == problem["detail"]
    assert len(problem["error"]) < 200
