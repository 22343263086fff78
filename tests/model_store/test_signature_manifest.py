"""How signatures are stored: cosign's manifest, read back as written, and no other one."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store import Malformed, StoreError, Unstorable, digest_of
from model_store.exchange.signing import sign, signed_digest, verify
from model_store.exchange.tags import signature_tag
from model_store.manifest import Descriptor
from model_store.signatures import (
    MAX_PAYLOAD_BYTES,
    MAX_SIGNATURES,
    SIGNATURE,
    Signature,
    read_signatures,
    signature_manifest,
)
from tests.model_store.signing_keys import DIGEST, KEY, STRANGER

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def stored(signatures: Sequence[Signature]) -> tuple[bytes, dict[str, bytes]]:
    """The signature manifest and its blobs by digest."""
    manifest, blobs = signature_manifest(signatures)
    return manifest, {digest_of(blob): blob for blob in blobs}


@given(
    st.lists(
        st.builds(
            Signature,
            st.binary(max_size=300),
            st.text(max_size=100),
            st.dictionaries(st.text(min_size=1).filter(lambda name: name != SIGNATURE), st.text()),
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=50)
def test_stored_signatures_come_back_as_they_were(signatures: list[Signature]) -> None:
    manifest, blobs = stored(signatures)
    assert read_signatures(manifest, lambda layer: blobs[layer.digest]) == signatures
    assert signature_manifest(signatures)[0] == manifest


def test_the_signature_manifest_is_cosigns() -> None:
    both = [sign(DIGEST, "a", KEY), sign(DIGEST, "a", STRANGER)]
    manifest, blobs = stored(both)
    document = json.loads(manifest)
    assert document["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert document["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert document["layers"] == [
        {
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "digest": digest_of(signature.payload),
            "size": len(signature.payload),
            "annotations": {"dev.cosignproject.cosign/signature": signature.base64},
        }
        for signature in both
    ]
    assert set(blobs) == {digest_of(both[0].payload), document["config"]["digest"]}
    assert signature_tag(DIGEST) == f"sha256-{DIGEST.removeprefix('sha256:')}.sig"


def test_layers_of_others_are_ignored() -> None:
    manifest, blobs = stored([sign(DIGEST, "a", KEY)])
    document = json.loads(manifest)
    document["layers"].append(
        Descriptor.of("application/vnd.dsse.envelope.v1+json", b"x").to_json()
    )
    found = read_signatures(json.dumps(document).encode(), lambda layer: blobs[layer.digest])
    assert verify(DIGEST, found, [KEY.public_key()])


@pytest.mark.parametrize("data", [b"", b"another payload", b"\0" * 2**20])
def test_a_payload_that_is_not_its_digest_is_refused(data: bytes) -> None:
    manifest, _ = stored([sign(DIGEST, "a", KEY)])
    with pytest.raises(Malformed, match="that are not sha256:"):
        read_signatures(manifest, lambda layer: data)


def test_limits_hold_before_anything_is_read() -> None:
    def unread(layer: Descriptor) -> bytes:
        raise AssertionError(f"read {layer}")

    signature = sign(DIGEST, "a", KEY)
    document = json.loads(signature_manifest([signature])[0])
    (layer,) = document["layers"]
    for layers in (
        [layer] * (MAX_SIGNATURES + 1),
        [{**layer, "size": MAX_PAYLOAD_BYTES + 1}],
        [{**layer, "annotations": {}}],
        [{**layer, "size": -1}],
        [{**layer, "digest": "sha256:../../etc/passwd"}],
    ):
        with pytest.raises(Malformed):
            read_signatures(json.dumps({**document, "layers": layers}).encode(), unread)
    with pytest.raises(Malformed, match="bytes, limit"):
        read_signatures(b" " * 2**22 + b"{}", unread)


def test_what_could_not_be_read_back_is_not_written() -> None:
    signature = sign(DIGEST, "a", KEY)
    for signatures in ([], [signature] * (MAX_SIGNATURES + 1)):
        with pytest.raises(Unstorable, match="expected 1 to 256"):
            signature_manifest(signatures)
    with pytest.raises(Unstorable, match="bytes, limit"):
        signature_manifest([Signature(b"", "", {"x": "y" * 2**22})])
    with pytest.raises(Unstorable, match="bytes, limit"):
        Signature(b" " * (MAX_PAYLOAD_BYTES + 1), "")
    with pytest.raises(Unstorable, match="reference is empty"):
        sign(DIGEST, "", KEY)
    with pytest.raises(Unstorable, match="bytes, limit"):
        sign(DIGEST, "x" * MAX_PAYLOAD_BYTES, KEY)
    with pytest.raises(StoreError, match="digest"):
        sign("latest", "a", KEY)  # type: ignore[arg-type]


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_payload_or_manifest_does_worse_than_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        signed_digest(data)
    with pytest.raises(Malformed):
        read_signatures(data, lambda layer: b"")


@given(JSON, st.sampled_from(["mediaType", "schemaVersion", "layers", "0"]))
def test_no_field_of_a_manifest_does_worse_than_malformed(value: Any, field: str) -> None:
    manifest, blobs = stored([sign(DIGEST, "a", KEY)])
    document = json.loads(manifest)
    if field == "0":
        document["layers"][0] = value
    else:
        document[field] = value
    try:
        read_signatures(json.dumps(document).encode(), lambda layer: blobs[layer.digest])
    except Malformed:
        return
    assert value == [] or value == 2  # a manifest without layers; the version it had
