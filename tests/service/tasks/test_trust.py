"""A gateway that serves only what a trusted key has signed."""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from model_store import ModelStore
from model_store.signing import sign
from tests.service.in_process import Gateway, refused
from tests.service.systems import png, publish


def key_files(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, Path]:
    """A private key, and a folder with its public key."""
    private = ec.generate_private_key(ec.SECP256R1())
    folder.mkdir()
    (folder / "team.pub").write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, folder


def test_only_signed_versions_are_served(tmp_path: Path, compilations: str) -> None:
    store = ModelStore(tmp_path / "store", create=True)
    key, folder = key_files(tmp_path / "keys")
    stranger, _ = key_files(tmp_path / "others")
    for task in ("signed", "unsigned", "forged"):
        publish(store, task)
    for task, signer in (("signed", key), ("forged", stranger)):
        digest = store.resolve(task).digest
        store.add_signature(digest, sign(digest, task, signer))
    gateway = Gateway(store, compilations, trusted_keys=str(folder))
    try:
        assert gateway.classify("signed", png(1)).status_code == 200
        for task in ("unsigned", "forged"):
            body = refused(gateway.classify(task, png(1)), 503, "unavailable")
            assert "Untrusted" in body["detail"]
            assert gateway.get(f"/tasks/{task}")["state"] == "failed"
        digest = store.resolve("unsigned").digest
        store.add_signature(digest, sign(digest, "unsigned", key))
        publish(store, "signed", own={"head": 7})  # an unsigned version never takes over
        assert gateway.classify("signed", png(1)).json()["version"] == 1
    finally:
        gateway.close()
