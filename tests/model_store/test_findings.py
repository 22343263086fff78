"""What fuzzing and hostile stores have brought to light in the parsers: a test for each."""

from pathlib import Path

import numpy as np
import pytest

from model_store import (
    InvalidName,
    Malformed,
    TaskPath,
    Unstorable,
    canonical_json,
    decode,
    digest_of,
    encode,
)
from model_store.canonical_json import MAX_SEPARATORS, decode_json, encode_json
from model_store.manifest import MAX_MANIFEST_BYTES, MAX_SPEC_BYTES, Manifest
from model_store.names import unquote
from tests.model_store.samples import path

FINDINGS = Path(__file__).parent / "findings"
HEAD = digest_of(b"head")


def test_a_long_key_does_not_cost_every_value_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place of a value is put together for a message, and not before."""
    put_together, named = [], canonical_json._named

    def counted(place: canonical_json._Place) -> str:
        put_together.append(place)
        return named(place)

    monkeypatch.setattr(canonical_json, "_named", counted)
    key = "k" * 2**20
    found = decode_json(f'{{"{key}":[{"0," * 1000}0]}}'.encode(), "document")
    assert len(found[key]) == 1001 and put_together == []
    with pytest.raises(Malformed, match=r"document\.k{100}\[1000\]: "):
        decode_json(f'{{"{key}":[{"0," * 1000}"\\ud800"]}}'.encode(), "document")
    assert len(put_together) == 3  # the value's, its list's, the document's


def test_messages_are_short_whatever_they_are_about() -> None:
    long = b"x" * 2**20
    bad_value = b'{"' + long + b'":["\\ud800"]}'
    for data in (bad_value, b'{"' + long + b'":1,"' + long + b'":1}', b'["' + long + b'\\ud800"]'):
        with pytest.raises(Malformed) as caught:
            decode_json(data, "document")
        assert len(str(caught.value)) < 1000
    with pytest.raises(Malformed) as caught:
        Manifest.from_bytes((FINDINGS / "manifests-size-is-text").read_bytes())
    assert len(str(caught.value)) < 1000


def test_what_takes_hundreds_of_times_its_size_in_memory_is_not_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(Malformed, match="brackets and commas"):
        decode_json(b"[" + b"[]," * (MAX_SEPARATORS // 2) + b"[]]", "document")
    monkeypatch.setattr(canonical_json, "MAX_SEPARATORS", 1000)
    with pytest.raises(Unstorable, match="brackets and commas"):  # nobody could read it
        encode_json([0] * 1001, "document")
    assert decode_json(encode_json([0] * 1000, "document"), "document") == [0] * 1000


def test_an_integer_that_cannot_be_read_back_cannot_be_written() -> None:
    with pytest.raises(Unstorable, match="digits"):
        encode_json({"a": 10**5000}, "document")
    with pytest.raises(Malformed, match="digits"):
        decode_json(b"1" + b"0" * 5000, "document")


def test_a_truth_has_one_form() -> None:
    with pytest.raises(Malformed, match="'a': bytes of BOOL"):
        decode((FINDINGS / "component-true-is-2").read_bytes())
    odd = np.array([0, 1, 2, 255], np.uint8).view(bool)
    assert encode({"a": odd}) == encode({"a": np.array([False, True, True, True])})
    assert encode(odd[2]) == encode(np.array(True))


def test_a_size_beyond_64_bits_is_refused() -> None:
    with pytest.raises(Malformed, match="size 9223372036854775808"):
        Manifest.from_bytes((FINDINGS / "manifests-size-beyond-int64").read_bytes())


def test_a_path_is_no_file_name() -> None:
    for name in ("a/t", "/", "../x", "a%2Ft/x"):
        with pytest.raises(InvalidName):
            unquote(name)
    assert unquote("a%2Ft") == "a/t"


def test_manifests_and_path_specs_have_a_limit() -> None:
    with pytest.raises(Malformed, match="limit"):
        Manifest.from_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    long = path("t", {"head": HEAD}, labels=("x" * 1000,) * (MAX_SPEC_BYTES // 1000))
    with pytest.raises(Unstorable, match="limit"):
        long.to_bytes()
    with pytest.raises(Malformed, match="limit"):
        TaskPath.from_bytes(b" " * (MAX_SPEC_BYTES + 1))
    sound = path("t", {"head": HEAD})
    assert TaskPath.from_bytes(sound.to_bytes()) == sound
