"""Canonical JSON: one form, exact round trip, and strict parsing."""

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.canonical_json import decode_json, encode_json, seal, unseal
from model_store.errors import Malformed, Unstorable

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abÄ/", max_size=4), inner),
    max_leaves=10,
)


def test_golden() -> None:
    value = {"b": [1, 2.5, 1e22, None], "a": {"Ω": True, "z": ()}, "B": "é\n"}
    expected = '{"B":"é\\n","a":{"z":[],"Ω":true},"b":[1,2.5,1e+22,null]}'
    assert encode_json(value, "test") == expected.encode()


@settings(max_examples=100, deadline=None)
@given(values)
def test_round_trip(value: Any) -> None:
    data = encode_json(value, "test")
    found = decode_json(data, "test")
    assert found == value
    assert encode_json(found, "test") == data


def test_any_mapping_will_do() -> None:
    assert encode_json(MappingProxyType({"a": 1}), "test") == b'{"a":1}'


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"metrics": {"loss": float("nan")}}, "spec.metrics.loss is nan"),
        ([1.0, float("inf")], "spec[1] is inf"),
        ({"accuracy": np.float32(0.5)}, "spec.accuracy is float32"),
        ({"digits": {0: "zero"}}, "spec.digits: key 0 is int"),
        ({"name": "\ud800"}, "not valid Unicode"),
        ({"\ud800": 1}, "not valid Unicode"),
        ({"data": b"x"}, "spec.data is bytes"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_place(value: Any, message: str) -> None:
    with pytest.raises(Unstorable) as caught:
        encode_json(value, "spec")
    assert message in str(caught.value)


def test_depth_is_limited() -> None:
    value: Any = 1
    for _ in range(65):
        value = [value]
    with pytest.raises(Unstorable, match="deeper than 64"):
        encode_json(value, "spec")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a":1}x',
        b'{"a":1,"a":1}',
        b"NaN",
        b"[-Infinity]",
        b"1e999",
        b"[" * 66 + b"]" * 66,
        b"[" * 500_000,
        b'"\\ud800"',
        b"9" * 10_000,
    ],
)
def test_malformed_documents_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed, match="spec"):
        decode_json(data, "spec")


def test_a_sealed_file_is_read_only_as_it_was_written_and_under_its_key() -> None:
    content = {"number": 1, "text": "a"}
    sealed = seal("key", content)
    assert unseal("key", sealed) == content
    changed = [sealed[:n] + bytes([sealed[n] ^ 1]) + sealed[n + 1 :] for n in range(len(sealed))]
    for key, data in [("other", sealed), *(("key", one) for one in changed)]:
        with pytest.raises(ValueError):
            unseal(key, data)
