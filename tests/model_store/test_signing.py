"""Signatures of versions: what is accepted, what is refused, and how they are stored."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from model_store import Malformed
from model_store.canonical_json import encode_json
from model_store.errors import Untrusted
from model_store.exchange.signing import (
    PAYLOAD_TYPE,
    PrivateKey,
    fingerprint,
    sign,
    signed_digest,
    verify,
)
from model_store.signatures import Signature
from tests.model_store.signing_keys import DIGEST, KEY, KEYS, OTHER, STRANGER, each_kind


def signed(payload: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> Signature:
    """A signature of any payload, hostile ones too."""
    raw = key.sign(payload, ec.ECDSA(SHA256()))
    return Signature(payload, base64.b64encode(raw).decode())


def claims(**changes: Any) -> dict[str, Any]:
    """The `critical` part of a payload; `changes` replaces fields, None removes one."""
    critical = {
        "identity": {"docker-reference": "cmaterdb/bangla"},
        "image": {"docker-manifest-digest": DIGEST},
        "type": PAYLOAD_TYPE,
        **changes,
    }
    return {name: value for name, value in critical.items() if value is not None}


# What is accepted


@each_kind
def test_a_trusted_key_vouches(key: PrivateKey) -> None:
    signature = sign(DIGEST, "cmaterdb/bangla", key)
    trusted = [STRANGER.public_key(), key.public_key()]
    assert verify(DIGEST, [signature], trusted) == fingerprint(key.public_key())


def test_the_payload_is_cosigns_byte_for_byte() -> None:
    expected = (
        '{"critical":{"identity":{"docker-reference":"cmaterdb/bangla"},'
        f'"image":{{"docker-manifest-digest":"{DIGEST}"}},'
        '"type":"cosign container image signature"},"optional":null}'
    )
    assert sign(DIGEST, "cmaterdb/bangla", KEY).payload == expected.encode()


def test_one_trusted_signer_among_several_is_enough() -> None:
    ours = sign(DIGEST, "a", KEY)
    others = [sign(DIGEST, "a", STRANGER), signed(b"no JSON"), Signature(b"", "no base64!")]
    for signatures in ([ours, *others], [*others, ours]):
        assert verify(DIGEST, signatures, [KEY.public_key()]) == fingerprint(KEY.public_key())


def test_payloads_of_other_signers_are_accepted_as_found() -> None:
    # As containers/image writes it: other order of keys, claims of its own.
    payload = json.dumps({"optional": {"creator": "x", "timestamp": 1}, "critical": claims()})
    assert verify(DIGEST, [signed(payload.encode())], [KEY.public_key()])


# What is refused


@each_kind
def test_every_flipped_bit_is_refused(key: PrivateKey) -> None:
    good, trusted = sign(DIGEST, "a", key), [key.public_key()]
    payload, text = good.payload, good.base64.encode()
    for bit in range(8 * len(payload)):
        with pytest.raises(Untrusted):
            verify(DIGEST, [Signature(flipped(payload, bit), good.base64)], trusted)
    for bit in range(8 * len(text)):
        with pytest.raises(Untrusted):
            changed = flipped(text, bit).decode("latin-1")
            verify(DIGEST, [Signature(payload, changed)], trusted)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_what_no_trusted_key_signed_is_refused() -> None:
    ours = sign(DIGEST, "a", KEY)
    with pytest.raises(Untrusted, match=f"is by {fingerprint(KEY.public_key())}, but for {DIGEST}"):
        verify(OTHER, [ours], [KEY.public_key()])
    with pytest.raises(Untrusted, match="by no trusted key"):
        verify(DIGEST, [ours], [STRANGER.public_key()])
    with pytest.raises(Untrusted, match="no signature"):
        verify(DIGEST, [], [KEY.public_key()])
    with pytest.raises(Untrusted, match="0 trusted keys"):
        verify(DIGEST, [ours], [])


def test_a_signature_is_no_signature_of_another_kind_of_key() -> None:
    for name, key in KEYS.items():
        others = [other.public_key() for kind, other in KEYS.items() if kind != name]
        with pytest.raises(Untrusted):
            verify(DIGEST, [sign(DIGEST, "a", key)], others)


HOSTILE = {
    "another type": claims(type="atomic container signature"),
    "no type": claims(type=None),
    "a field more": claims(expires=1),
    "identity a string": claims(identity="x"),
    "reference a number": claims(identity={"docker-reference": 1}),
    "digest a list": claims(image={"docker-manifest-digest": [DIGEST]}),
    "digest in capitals": claims(image={"docker-manifest-digest": DIGEST.upper()}),
    "digest and a newline": claims(image={"docker-manifest-digest": DIGEST + "\n"}),
    "another spelling of the field": claims(image={"Docker-manifest-digest": DIGEST}),
    "two digests": claims(image={"docker-manifest-digest": DIGEST, "other": DIGEST}),
    "a list": [claims()],
}


@pytest.mark.parametrize("critical", HOSTILE.values(), ids=HOSTILE)
def test_hostile_claims_are_refused_even_from_a_trusted_key(critical: Any) -> None:
    refused(encode_json({"critical": critical, "optional": None}, "payload"))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"null",
        b"[" * 60_000,
        encode_json({"critical": claims()}, "payload"),
        encode_json({"critical": claims(), "optional": 1}, "payload"),
        encode_json({"critical": claims(), "optional": None, "x": 1}, "payload"),
        encode_json({"critical": claims(), "optional": None}, "payload") + b"{}",
        b'{"critical":{},' + encode_json({"critical": claims(), "optional": None}, "payload")[1:],
        b'{"critical":'
        + encode_json(claims(), "payload")
        + b',"optional":{"a":%s}}' % (b"9" * 9999),
    ],
    ids=range(10),
)
def test_hostile_payloads_are_refused_even_from_a_trusted_key(payload: bytes) -> None:
    refused(payload)


def refused(payload: bytes) -> None:
    with pytest.raises(Malformed):
        signed_digest(payload)
    with pytest.raises(Untrusted):
        verify(DIGEST, [signed(payload)], [KEY.public_key()])
