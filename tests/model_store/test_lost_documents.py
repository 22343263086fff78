"""Documents that are lost are found, and a gc removes nothing without them."""

import json
import shutil
from pathlib import Path

import pytest

from model_store import (
    DamagedStore,
    ModelStore,
    UnknownTask,
)
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.samples import (
    arrays,
    document,
    manifest,
    small_store,
)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return small_store(tmp_path)


def test_a_lost_document_is_found(store: ModelStore) -> None:
    """Of a task that changed lately by the log, of all others once a gc has counted them."""
    document(store, "a/t").unlink()
    assert {problem.path for problem in verify_store(store)} == {str(document(store, "a/t"))}
    with pytest.raises(UnknownTask):
        store.resolve("a/t")


def test_a_store_restored_in_part_is_not_collected(store: ModelStore) -> None:
    store.pin("p", manifest(store))
    collect_garbage(store, grace_s=0)
    for lost in ("refs/tasks/a%2Ft", "refs/agents/agent", "refs/pins/p"):
        file = Path(store.url) / lost
        kept = file.read_bytes()
        file.unlink()
        assert any(p.severity == "error" for p in verify_store(store))
        store.put(arrays(50))
        with pytest.raises(DamagedStore, match="--fewer-documents"):
            collect_garbage(store, grace_s=0)
        file.write_bytes(kept)
    assert verify_store(store) == []
    (Path(store.url) / "refs/agents/agent").unlink()
    assert collect_garbage(store, grace_s=0, fewer_documents=True).removed
    assert verify_store(store) == [] and store.resolve("a/t").version == 2


LOST = {
    "a task": ("tasks/a%2Ft",),
    "an agent and a pin": ("agents/agent", "pins/p"),
    "all": ("tasks/*", "agents/*", "pins/*"),
}


@pytest.mark.parametrize("lost", LOST)
def test_documents_that_are_lost_with_their_copies_are_missed(
    store: ModelStore, tmp_path: Path, lost: str
) -> None:
    """As in a store of which the blobs were restored first: a gc has counted the documents."""
    store.pin("p", manifest(store))
    collect_garbage(store, grace_s=0)
    root = Path(store.url)
    blobs = sorted((root / "blobs/sha256").iterdir())
    shutil.copytree(root, tmp_path / "backup")
    for pattern in LOST[lost]:
        for file in [*root.glob(f"refs/{pattern}"), *root.glob(f"copies/{pattern}")]:
            file.unlink()
    for _ in range(2):
        found = [p for p in verify_store(ModelStore(root)) if p.severity == "error"]
        assert "an earlier gc found" in found[-1].message
        with pytest.raises(DamagedStore, match="--fewer-documents"):
            collect_garbage(ModelStore(root), grace_s=0)
    assert set(blobs) <= set((root / "blobs/sha256").iterdir())
    shutil.copytree(tmp_path / "backup/refs", root / "refs", dirs_exist_ok=True)
    shutil.copytree(tmp_path / "backup/copies", root / "copies", dirs_exist_ok=True)
    assert verify_store(ModelStore(root)) == []
    collect_garbage(ModelStore(root), grace_s=0)
    assert set(blobs) <= set((root / "blobs/sha256").iterdir())


def test_a_store_of_which_no_document_is_there_yet_is_not_collected(store: ModelStore) -> None:
    """Its blobs were restored first, and no gc had ever counted its documents."""
    root = Path(store.url)
    assert json.loads((root / "gc").read_bytes())["documents"] == 0
    blobs = sorted((root / "blobs/sha256").iterdir())
    for file in [*root.glob("refs/*/*"), *root.glob("copies/*/*")]:
        file.unlink()
    with pytest.raises(DamagedStore, match="--fewer-documents"):
        collect_garbage(ModelStore(root), grace_s=0)
    assert sorted((root / "blobs/sha256").iterdir()) == blobs
    assert collect_garbage(ModelStore(root), grace_s=0, fewer_documents=True).removed
    assert not list((root / "blobs/sha256").iterdir())


def test_told_so_a_gc_forgets_documents_that_are_lost_with_their_copies(store: ModelStore) -> None:
    collect_garbage(store, grace_s=0)
    root = Path(store.url)
    for place in ("refs", "copies"):
        (root / place / "agents/agent").unlink()
    assert collect_garbage(store, grace_s=0, fewer_documents=True).removed
    assert verify_store(store) == [] and collect_garbage(store, grace_s=0).removed == ()
    assert store.resolve("a/t").version == 2
