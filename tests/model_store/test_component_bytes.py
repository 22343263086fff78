"""A component's bytes: golden, round trip, one form only, and every malformed input refused."""

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from model_store import Malformed, Unstorable, decode, digest_of, encode
from model_store.tensors import DTYPES, MAX_HEADER_BYTES

TWO = {"kernel": np.array([[1, 2], [3, 4]], np.float32), "bias": np.array([0.5, -1], np.float32)}
TWO_BYTES = (
    b"x\0\0\0\0\0\0\0"
    b'{"bias":{"data_offsets":[0,8],"dtype":"F32","shape":[2]},'
    b'"kernel":{"data_offsets":[8,24],"dtype":"F32","shape":[2,2]}}  '
    b"\0\0\0?\0\0\x80\xbf\0\0\x80?\0\0\0@\0\0@@\0\0\x80@"
)


def test_golden_bytes_and_digest() -> None:
    assert encode(TWO) == TWO_BYTES
    expected = "sha256:1f0606ffece0361a5f3a74e1f8d2689bc40e7b823a79cb815b32437119f5148d"
    assert digest_of(TWO_BYTES) == expected


def test_order_strides_and_byte_order_do_not_matter() -> None:
    turned = {
        "bias": TWO["bias"].astype(">f4"),
        "kernel": np.asfortranarray(TWO["kernel"]),
    }
    assert encode(turned) == TWO_BYTES


def test_arguments_are_not_changed() -> None:
    big_endian = np.arange(3, dtype=">i4")
    turned = np.arange(4.0).reshape(2, 2).T
    tree = {"b": big_endian, "a": {"x": turned}}
    encode(tree)
    assert list(tree) == ["b", "a"]
    assert tree["b"] is big_endian and tree["a"]["x"] is turned
    assert big_endian.dtype == np.dtype(">i4") and big_endian.tolist() == [0, 1, 2]
    assert not turned.flags.c_contiguous


def test_the_safetensors_package_reads_our_files() -> None:
    tree = {
        "b": {"x": np.arange(6, dtype=np.int64).reshape(2, 3)},
        "a": np.array([1, 2, 3], np.float32),
    }
    found = safetensors.numpy.load(encode(tree))
    assert sorted(found) == ["a", "b/x"]
    np.testing.assert_array_equal(found["a"], tree["a"])
    np.testing.assert_array_equal(found["b/x"], tree["b"]["x"])


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_safetensors_package_agrees_on_every_dtype(dtype: np.dtype[Any]) -> None:
    array = np.arange(4).astype(dtype)
    ((name, found),) = safetensors.deserialize(encode(array))
    assert (name, DTYPES[found["dtype"]], found["shape"]) == ("/", dtype, [4])
    assert bytes(found["data"]) == array.tobytes()


def test_data_is_aligned_and_not_copied() -> None:
    tree = {"flag": np.ones(3, bool), "wide": np.ones(5), "half": np.ones(3, ml_dtypes.bfloat16)}
    data = encode(tree)
    assert (8 + int.from_bytes(data[:8], "little")) % 64 == 0
    found = decode(data)
    assert isinstance(found, dict)
    for array in found.values():
        assert array.flags.aligned and not array.flags.writeable and not array.flags.owndata


def test_a_bare_array_stays_bare() -> None:
    token = np.zeros((1, 1, 4), np.float32)
    found = decode(encode(token))
    assert isinstance(found, np.ndarray)
    assert found.shape == (1, 1, 4)
    assert encode(token) != encode({"cls": token})


def assert_equal(found: Any, expected: Any) -> None:
    """Equal trees: keys, dtypes, shapes and the bits of the values."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    else:
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype.newbyteorder("=")
        assert found.tobytes() == expected.astype(found.dtype).tobytes()


some_array = arrays_of.arrays(
    st.sampled_from([dtype for dtype in DTYPES.values() if dtype.kind != "V"]),
    arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
bfloat16 = some_array.map(lambda array: array.astype(np.float32).astype(ml_dtypes.bfloat16))
leaf = st.one_of(some_array, bfloat16)
key = st.text(min_size=1, max_size=8).filter(lambda k: "/" not in k and k.isprintable())
some_tree = st.recursive(
    leaf, lambda inner: st.dictionaries(key, inner, min_size=1, max_size=4), max_leaves=8
)


@settings(max_examples=70, deadline=None)
@given(some_tree)
@pytest.mark.filterwarnings("ignore:.*encountered in cast:RuntimeWarning")
def test_round_trip(tree: Any) -> None:
    data = encode(tree)
    found = decode(data)
    assert_equal(found, tree)
    assert encode(found) == data


@settings(max_examples=40, deadline=None)
@given(some_tree)
@pytest.mark.filterwarnings("ignore:.*encountered in cast:RuntimeWarning")
def test_dict_order_does_not_matter(tree: Any) -> None:
    def reversed_order(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {name: reversed_order(node[name]) for name in reversed(node)}

    assert encode(reversed_order(tree)) == encode(tree)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_changed_byte_of_the_header_is_refused_or_changes_nothing_else(data: Any) -> None:
    position = data.draw(st.integers(0, 127))
    value = data.draw(st.integers(0, 255))
    changed = bytearray(TWO_BYTES)
    changed[position] = value
    try:
        found = decode(bytes(changed))
    except Malformed:
        return
    assert encode(found) == bytes(changed)  # a header that is also canonical, of other names


def with_header(header: object, data: bytes = b"\0" * 8, pad: bool = True) -> bytes:
    """A file with this header, given as JSON or as text."""
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    raw = text.encode("utf-8", "surrogatepass")
    length = -(-(8 + len(raw)) // 64) * 64 - 8 if pad else len(raw)
    return length.to_bytes(8, "little") + raw.ljust(length) + data


def entry(**changes: object) -> dict[str, object]:
    """A sound header entry of one tensor of eight bytes, with changes."""
    return {"data_offsets": [0, 8], "dtype": "F32", "shape": [2], **changes}


A = '"a":{"data_offsets":[0,8],"dtype":"F32","shape":[2]}'
MALFORMED = {
    "empty file": (b"", "at least 8"),
    "short prefix": (b"\1\0\0", "at least 8"),
    "header longer than the file": ((1000).to_bytes(8, "little") + b"{}", "in a file of"),
    "header over the limit": (
        (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b" " * (MAX_HEADER_BYTES + 1),
        "the limit is",
    ),
    "absurd header length": (b"\xff" * 8 + b"{}", "the limit is"),
    "header is not UTF-8": (with_header("{}").replace(b"{}", b"\xff\xff"), "not the JSON"),
    "header is not JSON": (with_header("{"), "not the JSON"),
    "header nested too deep": (with_header("[" * 100_000), "not the JSON"),
    "header is a list": (with_header([]), "expected a JSON object"),
    "no tensors": (with_header({}, b""), "at least one tensor"),
    "duplicate tensor": (with_header("{" + A + "," + A + "}"), "'a' 2 times"),
    "duplicate field": (with_header("{" + A.replace("}", ',"shape":[2]}') + "}"), "2 times"),
    "NaN in the header": (with_header('{"a":NaN}'), "NaN is not JSON"),
    "entry is no object": (with_header({"a": 1}), "exactly data_offsets"),
    "missing field": (with_header({"a": {"dtype": "F32", "shape": [2]}}), "exactly"),
    "additional field": (with_header({"a": entry(more=1)}), "exactly data_offsets"),
    "metadata": (with_header({"__metadata__": {"a": "b"}, "a": entry()}), "exactly"),
    "unknown dtype": (with_header({"a": entry(dtype="F8_E4M3")}), "'F8_E4M3'"),
    "dtype is a list": (with_header({"a": entry(dtype=["F32"])}), "dtype"),
    "negative size": (with_header({"a": entry(shape=[-2])}), "shape [-2]"),
    "fractional size": (with_header({"a": entry(shape=[2.0])}), "shape [2.0]"),
    "boolean size": (with_header({"a": entry(shape=[True, 2])}), "shape [True, 2]"),
    "shape is a number": (with_header({"a": entry(shape=2)}), "shape 2"),
    "absurd size": (with_header({"a": entry(shape=[0, 2**62])}), "limits"),
    "too many axes": (with_header({"a": entry(shape=[1] * 33)}), "limits"),
    "three offsets": (with_header({"a": entry(data_offsets=[0, 4, 8])}), "[start, end]"),
    "negative offset": (with_header({"a": entry(data_offsets=[-8, 0])}), "[start, end]"),
    "offsets past the end": (with_header({"a": entry(data_offsets=[8, 16])}), "expected 0"),
    "offsets disagree with the shape": (with_header({"a": entry(shape=[1])}), "expected 0 to 4"),
    "overlap": (
        with_header({"a": entry(), "b": entry(data_offsets=[4, 12])}, b"\0" * 12),
        "expected 8 to 16",
    ),
    "hole": (
        with_header({"a": entry(), "b": entry(data_offsets=[12, 20])}, b"\0" * 20),
        "expected 8 to 16",
    ),
    "data missing at the end": (with_header({"a": entry()}, b"\0" * 7), "accounts for 8"),
    "data left at the end": (with_header({"a": entry()}, b"\0" * 9), "accounts for 8"),
    "data in another order": (
        with_header({"a": entry(data_offsets=[8, 16]), "b": entry()}, b"\0" * 16),
        "expected 0 to 8",
    ),
    "header in another order": (
        with_header({"b": entry(data_offsets=[8, 16]), "a": entry()}, b"\0" * 16),
        "not canonical",
    ),
    "spaces in the header": (with_header(json.dumps({"a": entry()})), "not canonical"),
    "header not padded": (with_header({"a": entry()}, pad=False), "not canonical"),
    "escaped name": (with_header("{" + A.replace("a", r"\u0061", 1) + "}"), "not canonical"),
    "lone surrogate": (with_header("{" + A.replace("a", r"\ud800", 1) + "}"), "Unicode"),
    "empty name": (with_header({"": entry()}), "path of"),
    "empty key": (with_header({"a//b": entry()}), "path of"),
    "metadata as a key": (with_header({"a/__metadata__": entry()}), "path of"),
    "deep path": (with_header({"/".join("a" * 17): entry()}), "path of"),
    "bare array with company": (
        with_header({"/": entry(), "a": entry(data_offsets=[8, 16])}, b"\0" * 16),
        "path of",
    ),
    "tensor that is also a dict": (
        with_header({"a": entry(), "a/b": entry(data_offsets=[8, 16])}, b"\0" * 16),
        "path to another",
    ),
    "dict that is also a tensor, deeper": (
        with_header({"a": entry(), "a/b/c": entry(data_offsets=[8, 16])}, b"\0" * 16),
        "path to another",
    ),
}


@pytest.mark.parametrize(("data", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_bytes_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(Malformed) as caught:
        decode(data)
    assert message in str(caught.value)


DEEP: Any = np.zeros(1)
for _ in range(17):
    DEEP = {"a": DEEP}
UNSTORABLE = {
    "no arrays": ({}, "component: empty dict"),
    "empty dict inside": ({"a": {"b": {}}}, "a/b: empty dict"),
    "list": ({"a": [1, 2]}, "a: list"),
    "text array": ({"a": np.array(["x"])}, "a: dtype <U1"),
    "complex": ({"a": np.zeros(1, complex)}, "a: dtype complex128"),
    "objects": ({"a": np.array([None])}, "a: dtype object"),
    "slash in a key": ({"a/b": np.zeros(1)}, "key 'a/b'"),
    "empty key": ({"": np.zeros(1)}, "key ''"),
    "number as key": ({1: np.zeros(1)}, "key 1"),
    "reserved key": ({"__metadata__": np.zeros(1)}, "__metadata__"),
    "lone surrogate": ({"\ud800": np.zeros(1)}, "Unicode"),
    "too deep": (DEEP, "deeper than 16"),
    "too many tensors": ({f"t{i}": np.zeros(1) for i in range(20_000)}, "header of"),
}


@pytest.mark.parametrize(("tree", "message"), UNSTORABLE.values(), ids=UNSTORABLE)
def test_what_cannot_be_stored_is_refused_by_name(tree: Any, message: str) -> None:
    with pytest.raises(Unstorable) as caught:
        encode(tree)
    assert message in str(caught.value)
