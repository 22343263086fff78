"""Signatures of published versions, in cosign's format: who vouches for a manifest digest.

Functions over bytes and keys: nothing here reads or writes a store. No certificates, no log.
Formats: https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md, and for the payload
https://github.com/containers/image/blob/main/docs/containers-signature.5.md ("JSON data format").
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from model_store.blobs import Digest, digest_of, parse_digest
from model_store.canonical_json import decode_json, encode_json
from model_store.errors import InvalidKey, InvalidName, Malformed, Unstorable, Untrusted, listed
from model_store.signatures import Signature

PAYLOAD_TYPE = "cosign container image signature"

MAX_KEY_FILE_BYTES = 2**20
KEY_SUFFIXES = (".pub", ".pem")  # of the files in a folder of keys
MIN_RSA_BITS = 2048
# What cosign and containers/image verify with SHA-256, or with Ed25519's own hash.
KEY_KINDS = "ECDSA P-256, RSA of at least 2048 bits, or Ed25519"
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


def sign(manifest_digest: Digest, reference: str, private_key: PrivateKey) -> Signature:
    """Vouch for a manifest. `reference` says to people what it is; verifiers need not look at it.

    Raises InvalidName for a digest that is none, Unstorable for an empty or too long reference.
    """
    if not reference:
        raise Unstorable("signature: the reference is empty, expected a repository or task name")
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": parse_digest(manifest_digest)},
        "type": PAYLOAD_TYPE,
    }
    # cosign writes null where nothing is optional, and containers/image demands the field
    payload = encode_json({"critical": critical, "optional": None}, "signature payload")
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        raw = private_key.sign(payload, ec.ECDSA(SHA256()))
    elif isinstance(private_key, rsa.RSAPrivateKey):
        raw = private_key.sign(payload, padding.PKCS1v15(), SHA256())
    else:
        raw = private_key.sign(payload)
    return Signature(payload, base64.b64encode(raw).decode())


def verify(
    manifest_digest: Digest, signatures: Sequence[Signature], trusted: Sequence[PublicKey]
) -> str:
    """The fingerprint of a trusted key that signed this manifest; one valid signature is enough.

    A payload is parsed only once a trusted key's signature of its bytes has been verified.
    Raises Untrusted.
    """
    refused: list[str] = []
    for number, signature in enumerate(signatures, 1):
        signer = _signer(signature, trusted)
        if signer is None:
            refused.append(f"signature {number} is by no trusted key")
            continue
        try:
            found = signed_digest(signature.payload)
        except Malformed as error:
            refused.append(f"signature {number} is by {signer}, but {error}")
            continue
        if found == manifest_digest:
            return signer
        refused.append(f"signature {number} is by {signer}, but for {found}")
    raise Untrusted(
        f"manifest {manifest_digest}: expected a signature by one of the {len(trusted)} trusted"
        f" keys, found {listed(refused) or 'no signature'}; have a trusted signer sign it, or"
        " trust its signer's key"
    )


def _signer(signature: Signature, trusted: Sequence[PublicKey]) -> str | None:
    try:
        raw = base64.b64decode(signature.base64, validate=True)
    except ValueError:
        return None
    if base64.b64encode(raw).decode() != signature.base64:  # one spelling only: no spare bits
        return None
    found = (fingerprint(key) for key in trusted if _signed(key, raw, signature.payload))
    return next(found, None)


def _signed(key: PublicKey, raw: bytes, payload: bytes) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(raw, payload, ec.ECDSA(SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(raw, payload, padding.PKCS1v15(), SHA256())
        else:
            key.verify(raw, payload)
    except InvalidSignature:
        return False
    return True


def signed_digest(payload: bytes) -> Digest:
    """The manifest digest a payload vouches for. Raises Malformed.

    As containers/image does, fields nobody knows are refused: they might limit what is vouched for.
    The reference is checked to be a string and is not used.
    """
    document = _fields(decode_json(payload, "signature payload"), "critical", "optional")
    critical = _fields(document["critical"], "identity", "image", "type")
    if critical["type"] != PAYLOAD_TYPE:
        raise Malformed(f"signature payload: type is not {PAYLOAD_TYPE!r}")
    if not isinstance(_fields(critical["identity"], "docker-reference")["docker-reference"], str):
        raise Malformed("signature payload: docker-reference is not a string")
    if not isinstance(document["optional"], dict | None):
        raise Malformed("signature payload: optional is neither an object nor null")
    image = _fields(critical["image"], "docker-manifest-digest")
    try:
        return parse_digest(image["docker-manifest-digest"])
    except InvalidName as error:
        raise Malformed(f"signature payload: {error}") from error


def _fields(value: object, *names: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(cast(dict[str, Any], value)) != set(names):
        raise Malformed(f"signature payload: expected an object of exactly {list(names)}")
    return cast(dict[str, Any], value)


def fingerprint(key: PublicKey) -> str:
    """What to call a key: the SHA-256 of its DER form.

    `openssl pkey -pubin -in key.pub -outform DER | sha256sum` prints the same.
    """
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return digest_of(key.public_bytes(serialization.Encoding.DER, form))


def load_private_key(path: Path, password: bytes | None) -> PrivateKey:
    """The private key in a PEM file; the password is used only if the key is encrypted.

    Raises InvalidKey, or OSError where the file cannot be read.
    """
    data = _key_file(path)
    if b"ENCRYPTED SIGSTORE PRIVATE KEY" in data or b"ENCRYPTED COSIGN PRIVATE KEY" in data:
        # Encrypted with XSalsa20-Poly1305, which `cryptography` does not offer.
        raise InvalidKey(
            f"{path}: a private key in cosign's own encryption, expected PEM (PKCS#8); make one by"
            " `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes256`; `cosign"
            " import-key-pair` gives it to cosign as well"
        )
    encrypted = b"ENCRYPTED" in data
    try:
        key = serialization.load_pem_private_key(data, password if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        expected = "private key in PEM (PKCS#8)" + " that COSIGN_PASSWORD opens" * encrypted
        raise InvalidKey(f"{path}: expected a {expected}, found none ({error})") from error
    _supported(key.public_key(), path)
    return cast(PrivateKey, key)


def load_public_keys(path: Path) -> list[PublicKey]:
    """The public keys in a PEM file, or in the *.pub and *.pem files of a folder; at least one.

    Raises InvalidKey, also for private keys lying there, or OSError.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in KEY_SUFFIXES)
    if not files:
        raise InvalidKey(f"{path}: expected public keys, found no *.pub or *.pem file; put one in")
    return [key for file in files for key in parse_public_keys(_key_file(file), file)]


def parse_public_keys(data: bytes, file: Path) -> list[PublicKey]:
    """The public keys in the bytes of a PEM file; at least one. Raises InvalidKey."""
    _, *blocks = data.split(b"-----BEGIN ")
    labels = {block.partition(b"-----")[0].decode(errors="replace")[:40] for block in blocks}
    if labels != {"PUBLIC KEY"}:
        raise InvalidKey(
            f"{file}: expected PEM with PUBLIC KEY alone, found {listed(sorted(labels)) or 'none'};"
            " `openssl pkey -in key.pem -pubout` writes the public key of a private one"
        )
    try:
        keys = [serialization.load_pem_public_key(b"-----BEGIN " + block) for block in blocks]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidKey(f"{file}: a public key that cannot be read ({error})") from error
    return [_supported(key, file) for key in keys]


def _key_file(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_KEY_FILE_BYTES + 1)
    if len(data) > MAX_KEY_FILE_BYTES:
        raise InvalidKey(f"{path}: more than {MAX_KEY_FILE_BYTES} bytes, expected keys in PEM")
    return data


def _supported(key: object, path: Path) -> PublicKey:
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise InvalidKey(f"{path}: a key of another kind, expected {KEY_KINDS}; make another key")
