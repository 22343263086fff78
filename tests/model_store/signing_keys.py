"""Keys for signatures, and what they sign."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from model_store import digest_of
from model_store.exchange.signing import (
    PrivateKey,
)

DIGEST, OTHER = digest_of(b"a manifest"), digest_of(b"another")
KEY, STRANGER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
KEYS: dict[str, PrivateKey] = {
    "ecdsa": KEY,
    "rsa": rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
each_kind = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)


def private_pem(key: Any, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
