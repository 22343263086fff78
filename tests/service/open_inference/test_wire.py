"""What a message costs is known before it is parsed."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from service.open_inference import inference_pb2 as pb
from service.open_inference.errors import BadRequest
from service.open_inference.wire import MAX_FIELDS, MAX_NAME, model_of

TEXTS = st.text(max_size=20)
PARAMETERS = st.dictionaries(
    TEXTS, st.builds(pb.InferParameter, string_param=TEXTS, int64_param=st.just(1)), max_size=3
)
CONTENTS = st.builds(
    pb.InferTensorContents,
    bytes_contents=st.lists(st.binary(max_size=9), max_size=3),
    fp32_contents=st.lists(st.floats(width=32), max_size=3),
    int_contents=st.lists(st.integers(-9, 9), max_size=3),
)
INPUTS = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=TEXTS,
    shape=st.lists(st.integers(0, 9), max_size=3),
    parameters=PARAMETERS,
    contents=CONTENTS,
)
REQUESTS = st.builds(
    pb.ModelInferRequest,
    model_name=TEXTS,
    model_version=TEXTS,
    id=TEXTS,
    parameters=PARAMETERS,
    inputs=st.lists(INPUTS, max_size=3),
    raw_input_contents=st.lists(st.binary(max_size=30), max_size=3),
)


@given(REQUESTS)
def test_names_of_requests(request: pb.ModelInferRequest) -> None:
    assert model_of(request.SerializeToString()) == (request.model_name, request.model_version)


@given(REQUESTS, st.data())
def test_what_parses_has_the_same_names(request: pb.ModelInferRequest, data: st.DataObject) -> None:
    sent = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        if sent:
            sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    agree(bytes(sent[: data.draw(st.integers(0, len(sent)))]))


@given(st.binary(max_size=40))
@example(b"\x0a\x01a\x0a\x01b")  # the last one counts
@example(b"\x2a\x80\x00")
@example(b"\x2a\xff\xff\xff\xff\x0f")
@example(b"\x0b\x0c")  # a group
@example(b"\x00\x00")
@example(b"\xff" * 11)
def test_bytes(sent: bytes) -> None:
    agree(sent)


def agree(sent: bytes) -> None:
    """Either it is refused, or a parser that takes it too finds the same names."""
    try:
        found = model_of(sent)
    except BadRequest:
        return
    try:
        message = pb.ModelInferRequest.FromString(sent)
    except DecodeError:
        return
    assert found == (message.model_name, message.model_version)


@pytest.mark.parametrize("tag", [b"\x2a\x00", b"\x32\x00", b"\x22\x00", b"\x3a\x00", b"\x78\x01"])
def test_many_small_fields(tag: bytes) -> None:
    assert model_of(tag * MAX_FIELDS) == ("", "")
    with pytest.raises(BadRequest, match=f"more than {MAX_FIELDS} fields"):
        model_of(tag * (MAX_FIELDS + 1))


def test_many_small_fields_inside_others() -> None:
    contents = pb.InferTensorContents(bytes_contents=[b""] * MAX_FIELDS)
    tensor = pb.ModelInferRequest.InferInputTensor(contents=contents)
    with pytest.raises(BadRequest, match="fields"):
        model_of(pb.ModelInferRequest(inputs=[tensor]).SerializeToString())
    packed = pb.InferTensorContents(fp32_contents=[0.0] * (2 * MAX_FIELDS))
    tensor = pb.ModelInferRequest.InferInputTensor(contents=packed)
    request = pb.ModelInferRequest(model_name="a", inputs=[tensor])
    assert model_of(request.SerializeToString()) == ("a", "")


def test_long_names() -> None:
    request = pb.ModelInferRequest(model_version="1" * (MAX_NAME + 1))
    with pytest.raises(BadRequest, match=f"at most {MAX_NAME}"):
        model_of(request.SerializeToString())
