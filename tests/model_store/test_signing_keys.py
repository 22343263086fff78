"""Keys for signatures in files: PEM, with or without a password, one or several; nothing else."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
)

from model_store.errors import InvalidKey
from model_store.exchange.signing import (
    PrivateKey,
    fingerprint,
    load_private_key,
    load_public_keys,
    sign,
    verify,
)
from tests.model_store.signing_keys import DIGEST, KEY, KEYS, each_kind, private_pem, public_pem


@each_kind
def test_keys_come_from_pem_files(tmp_path: Path, key: PrivateKey) -> None:
    (tmp_path / "plain.pem").write_bytes(private_pem(key))
    secret = private_pem(key, BestAvailableEncryption(b"secret"))
    (tmp_path / "secret.pem").write_bytes(secret)
    (tmp_path / "key.pub").write_bytes(public_pem(key))
    (public,) = load_public_keys(tmp_path / "key.pub")
    for name, password in (("plain", None), ("plain", b"unneeded"), ("secret", b"secret")):
        loaded = load_private_key(tmp_path / f"{name}.pem", password)
        assert verify(DIGEST, [sign(DIGEST, "a", loaded)], [public]) == fingerprint(public)
    for password in (None, b"", b"wrong"):
        with pytest.raises(InvalidKey, match="COSIGN_PASSWORD"):
            load_private_key(tmp_path / "secret.pem", password)


def test_several_public_keys_come_from_a_file_or_a_folder(tmp_path: Path) -> None:
    expected = [fingerprint(key.public_key()) for key in KEYS.values()]
    pems = [public_pem(key) for key in KEYS.values()]
    (tmp_path / "all.txt").write_bytes(b"# our signers\n" + b"\n".join(pems))
    assert [fingerprint(key) for key in load_public_keys(tmp_path / "all.txt")] == expected
    for name, pem in zip(("a.pub", "b.pem", "c.pub"), pems, strict=True):
        (tmp_path / name).write_bytes(pem)
    assert [fingerprint(key) for key in load_public_keys(tmp_path)] == expected


NO_KEYS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "found none"),
    "text": (b"ssh-ed25519 AAAA", "found none"),
    "a private key": (private_pem(KEY), "found PRIVATE KEY"),
    "a private key too": (public_pem(KEY) + private_pem(KEY), "found PRIVATE KEY, PUBLIC KEY"),
    "cut": (public_pem(KEY)[:-30], "cannot be read"),
    "garbage": (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
    "P-384": (public_pem(ec.generate_private_key(ec.SECP384R1())), "of another kind"),
    "X25519": (public_pem(x25519.X25519PrivateKey.generate()), "of another kind"),
    "short RSA": (public_pem(rsa.generate_private_key(65537, 1024)), "of another kind"),
    "huge": (b"\n" * (2**20 + 1), "more than"),
}


@pytest.mark.parametrize(("data", "message"), NO_KEYS.values(), ids=NO_KEYS)
def test_what_is_no_public_key_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "key.pub").write_bytes(data)
    for place in (tmp_path / "key.pub", tmp_path):
        with pytest.raises(InvalidKey, match=message):
            load_public_keys(place)


def test_a_folder_without_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidKey, match="found no"):
        load_public_keys(tmp_path)


def test_what_is_no_private_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    p384 = private_pem(ec.generate_private_key(ec.SECP384R1()))
    for data, message in (
        (b"", "expected a private key in PEM"),
        (public_pem(KEY), "expected a private key in PEM"),
        (p384, "of another kind"),
        (private_pem(x25519.X25519PrivateKey.generate()), "of another kind"),
        (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\neyJ9\n", "cosign import-key-pair"),
    ):
        file.write_bytes(data)
        with pytest.raises(InvalidKey, match=message):
            load_private_key(file, b"secret")
