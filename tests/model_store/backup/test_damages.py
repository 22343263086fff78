"""What is damaged, lost or put back, in the store or in its copy."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_store import ModelStore, StoreNotFound
from model_store.files.local import LocalStorage
from model_store.reading import load_manifest
from model_store.upkeep import verify_store
from model_store.upkeep.backup import backup
from model_store.upkeep.repair import repair
from tests.model_store.backup.full_store import content, require_equal, whole
from tests.model_store.samples import blob_file, document, publish


def test_a_document_that_is_newer_in_the_copy_is_left_there(
    store: ModelStore, tmp_path: Path
) -> None:
    copy = ModelStore(Path(store.url).rename(tmp_path / "backup"))
    backup(copy.url, store.url)
    store = ModelStore(store.url)  # another one, in its place
    publish(copy, "a/b", 9)
    publish(copy, "only/there", 9)
    publish(store, "other", 8)
    there = copy.versions("a/b")
    report = backup(store.url, copy.url)
    assert [p.split(" is not")[0] for p in report.problems] == [
        "refs/tasks/a%2Fb",
        "refs/tasks/only%2Fthere",
    ]
    assert copy.versions("a/b") == there and copy.versions("only/there")
    assert copy.versions("other") == store.versions("other") and verify_store(copy) == []


def test_both_written_to_apart(store: ModelStore, tmp_path: Path) -> None:
    """Even where the source has been written to more often."""
    copy = str(tmp_path / "backup")
    backup(store.url, copy)
    publish(ModelStore(copy), "a/b", 20)
    for seed in range(21, 25):
        publish(store, "a/b", seed)
    before = ModelStore(copy).versions("a/b")
    report = backup(store.url, copy)
    assert len(report.problems) == 1 and "it was written to" in report.problems[0]
    assert ModelStore(copy).versions("a/b") == before


def test_a_source_that_was_put_back(store: ModelStore, tmp_path: Path) -> None:
    copy = str(tmp_path / "backup")
    old = tmp_path / "old"
    shutil.copytree(store.url, old)
    publish(store, "a/b", 9)
    backup(store.url, copy)
    shutil.rmtree(store.url)
    old.rename(store.url)
    report = backup(store.url, copy)
    assert len(report.problems) == 1
    require_equal_task(ModelStore(copy), "a/b", 4)


def test_a_document_of_the_source_that_was_put_back(store: ModelStore, tmp_path: Path) -> None:
    """Its second copy tells, so a first backup does not pass it off as what there was."""
    file = document(store, "a/b")
    old = file.read_bytes()
    publish(store, "a/b", 9)
    file.write_bytes(old)
    report = backup(store.url, str(tmp_path / "backup"))
    assert len(report.problems) == 1 and "put back" in report.problems[0]
    assert sorted(ModelStore(tmp_path / "backup").tasks()) == ["other"]


def require_equal_task(store: ModelStore, task: str, newest: int) -> None:
    """A task has this version, and the store is sound."""
    assert verify_store(store) == [] and max(store.versions(task)) == newest


DAMAGES: dict[str, Callable[[Path], object]] = {
    "lost": lambda file: file.unlink(),
    "cut off": lambda file: os.truncate(file, 10),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a link": lambda file: (file.unlink(), file.symlink_to("/etc/passwd")),
    "changed": lambda file: file.write_bytes(file.read_bytes().replace(b"a", b"b")),
    "empty": lambda file: file.write_bytes(b""),
}
RARE = [pytest.param(d, marks=pytest.mark.slow) for d in DAMAGES if d not in ("lost", "changed")]


@pytest.mark.parametrize("damage", ["lost", "changed", *RARE])
@pytest.mark.parametrize("before", [True, False], ids=["backed up before", "never backed up"])
@pytest.mark.parametrize("what", ["document", "document and copy", "head", "manifest", "spec"])
def test_what_is_damaged_is_named_and_all_else_copied(
    store: ModelStore, tmp_path: Path, damage: str, before: bool, what: str
) -> None:
    if what == "document and copy" and not (before and damage == "lost"):
        return
    copy = str(tmp_path / "backup")
    good = content(store)
    if before:
        whole(backup(store.url, copy))
        publish(store, "other", 8)
        publish(store, "a/b", 9)  # needs what is damaged below
    found = store.resolve("a/b")
    if what.startswith("document"):
        DAMAGES[damage](document(store, "a/b"))
        if "copy" in what:
            DAMAGES[damage](Path(store.url) / "copies/tasks/a%2Fb")
    else:
        spec = next(b.digest for b in load_manifest(store.blobs, found.digest).layers)
        digests = {"head": found.path.components["head"], "manifest": found.digest, "spec": spec}
        DAMAGES[damage](blob_file(store, digests[what]))
    report = backup(store.url, copy)
    assert any("refs/tasks/a%2Fb" in problem for problem in report.problems)
    assert all(str(store.url) in problem for problem in report.problems)
    saved = ModelStore(copy)
    assert verify_store(saved) == []
    assert saved.versions("other") == store.versions("other") and saved.agents() == ["agent/x"]
    if before:
        assert content(saved)["tasks"]["a/b"] == good["tasks"]["a/b"]
    else:
        assert not saved.versions("a/b")


def test_a_blob_that_only_the_copy_has_is_no_loss(store: ModelStore, tmp_path: Path) -> None:
    copy = str(tmp_path / "backup")
    backup(store.url, copy)
    shared = store.resolve("a/b").path.components["embedding"]
    publish(store, "a/b", 9)
    blob_file(store, shared).unlink()
    whole(backup(store.url, copy))
    assert verify_store(ModelStore(copy)) == [] and 4 in ModelStore(copy).versions("a/b")


def test_a_damaged_copy_is_named_and_left(store: ModelStore, tmp_path: Path) -> None:
    copy = tmp_path / "backup"
    backup(store.url, str(copy))
    publish(store, "a/b", 9)
    publish(store, "other", 9)
    os.truncate(copy / "refs/tasks/a%2Fb", 10)
    report = backup(store.url, str(copy))
    assert len(report.problems) == 1 and str(copy / "refs/tasks/a%2Fb") in report.problems[0]
    assert ModelStore(copy).versions("other") == store.versions("other")
    # A blob of another size is noticed where something new needs it.
    shared = store.resolve("a/b").path.components["embedding"]
    os.truncate(copy / "blobs/sha256" / shared[7:], 10)
    publish(store, "other", 10)
    report = backup(store.url, str(copy))
    assert [("10 bytes" in p) for p in report.problems] == [False, True]


def test_a_copy_that_was_repaired_goes_on(store: ModelStore, tmp_path: Path) -> None:
    """Who repairs a document writes it once more; that is no change of what it says."""
    copy = tmp_path / "backup"
    backup(store.url, str(copy))
    for number, lost in enumerate((os.unlink, lambda file: os.truncate(file, 10))):
        lost(copy / "refs/tasks/a%2Fb")
        repair(str(copy))
        assert verify_store(ModelStore(copy)) == []
        whole(backup(store.url, str(copy)))
        publish(store, "a/b", 20 + number)
        whole(backup(store.url, str(copy)))
        require_equal(store, str(copy))
    # Where the source has gone on before, it is removed from the copy, and written again.
    os.truncate(copy / "refs/tasks/a%2Fb", 10)
    repair(str(copy))
    publish(store, "a/b", 30)
    assert len(backup(store.url, str(copy)).problems) == 1
    for kind in ("refs", "copies"):
        (copy / kind / "tasks/a%2Fb").unlink()
    whole(backup(store.url, str(copy)))
    require_equal(store, str(copy))


@pytest.mark.parametrize("call", ["names", "load"])
@pytest.mark.parametrize("before", [True, False], ids=["backed up before", "never backed up"])
def test_a_store_that_goes_away_is_no_damage_of_its_documents(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, before: bool
) -> None:
    copy = str(tmp_path / "backup")
    if before:
        backup(store.url, copy)
    saved = content(store)
    publish(store, "other", 8)
    here = LocalStorage(Path(store.url))
    really = getattr(here, call)

    def vanish(*arguments: Any) -> Any:
        if Path(store.url).exists():
            Path(store.url).rename(tmp_path / "away")
        return really(*arguments)

    monkeypatch.setattr(here, call, vanish)
    storages = {store.url: here, copy: LocalStorage(Path(copy))}
    with monkeypatch.context() as patch:
        patch.setattr("model_store.upkeep.backup.open_storage", storages.__getitem__)
        with pytest.raises(StoreNotFound, match="it was there"):
            backup(store.url, copy)
    if before:
        assert content(ModelStore(copy)) == saved
    else:
        with pytest.raises(StoreNotFound, match="a backup is being copied to it"):
            ModelStore(copy)
