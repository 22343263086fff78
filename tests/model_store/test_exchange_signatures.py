"""Signatures go where the versions go, and a link saves the second copy of the bytes."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from model_store import Digest, ModelStore
from model_store.exchange.oci_layout import LayoutPlace
from model_store.exchange.registry import Reference, RegistryPlace
from model_store.exchange.signing import sign, verify
from model_store.exchange.transfer import Place, StorePlace, transfer
from model_store.upkeep import verify_store
from tests.model_store.registries import registry
from tests.model_store.samples import new_store, publish

KEYS = [ed25519.Ed25519PrivateKey.generate() for _ in range(2)]


def signed(store: ModelStore, digest: Digest, key: int) -> None:
    """Sign a manifest with one of the keys."""
    store.add_signature(digest, sign(digest, "a/t", KEYS[key]))


def require_signed(store: ModelStore, digest: Digest, keys: list[int]) -> None:
    """These keys have signed, each once."""
    signatures = store.signatures(digest)
    assert len(signatures) == len(keys)
    for key in keys:
        verify(digest, signatures, [KEYS[key].public_key()])


@pytest.mark.parametrize("kind", ["layout", "registry", "store"])
def test_signatures_go_along_and_are_joined(kind: str, tmp_path: Path) -> None:
    with registry(tmp_path) as server:
        places: dict[str, Place] = {
            "layout": LayoutPlace(tmp_path / "layout"),
            "registry": RegistryPlace(Reference.parse(f"{server.host}/team/tasks")),
            "store": StorePlace(ModelStore(tmp_path / "middle", create=True)),
        }
        middle = places[kind]
        first = new_store(tmp_path / "first")
        publish(first, "a/t", 1)
        publish(first, "unsigned", 1)
        digest = first.resolve("a/t").digest
        signed(first, digest, 0)
        transfer(StorePlace(first), middle)
        second = ModelStore(tmp_path / "second", create=True)
        transfer(middle, StorePlace(second))
        require_signed(second, digest, [0])
        assert second.signatures(second.resolve("unsigned").digest) == []
        signed(second, digest, 1)
        transfer(StorePlace(second), middle)
        transfer(StorePlace(first), middle)
        transfer(middle, StorePlace(first))
        require_signed(first, digest, [0, 1])
        assert verify_store(first) == verify_store(second) == []
        assert first.tasks() == ["a/t", "unsigned"]


def test_copies_share_no_file(tmp_path: Path) -> None:
    """So that who writes to one harms no other."""
    first = new_store(tmp_path / "first")
    publish(first, "t", 1)
    transfer(StorePlace(first), LayoutPlace(tmp_path / "layout"))
    second = ModelStore(tmp_path / "second", create=True)
    transfer(LayoutPlace(tmp_path / "layout"), StorePlace(second))
    third = ModelStore(tmp_path / "third", create=True)
    transfer(StorePlace(second), StorePlace(third))
    blobs = list(tmp_path.rglob("blobs/sha256/*"))
    assert len(blobs) == 4 * len(list((tmp_path / "layout/blobs/sha256").iterdir()))
    assert all(blob.stat().st_nlink == 1 for blob in blobs)
    assert verify_store(second) == verify_store(third) == []
