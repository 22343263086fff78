"""From a copy back to a store; the command."""

import os
import re
import shutil
from pathlib import Path

import pytest

from model_store import AgentMoved, ModelStore
from model_store.exchange.transfer import StorePlace, transfer
from model_store.upkeep import collect_garbage, verify_store
from model_store.upkeep.backup import backup
from tests.model_store.backup.full_store import content, require_equal, whole
from tests.model_store.commands import run
from tests.model_store.samples import blob_file, document, publish


def test_a_restored_store_goes_on(store: ModelStore, tmp_path: Path) -> None:
    copy = str(tmp_path / "backup")
    told = content(store)
    backup(store.url, copy)
    shutil.rmtree(store.url)
    assert whole(backup(copy, store.url)).made
    restored = ModelStore(store.url)
    require_equal(restored, copy)
    assert content(restored) == told
    assert publish(restored, "a/b", 9) == 4
    assert publish(restored, "gone", 9) == 2  # a number is never used again
    with pytest.raises(AgentMoved):
        restored.save_agent("agent/x", {}, [], replacing=None)
    collect_garbage(restored, grace_s=0)
    whole(backup(restored.url, copy))
    require_equal(restored, copy)


def test_documents_are_restored_in_place(store: ModelStore, tmp_path: Path) -> None:
    """All of them lost, or some; those there are newer, and stay."""
    copy = str(tmp_path / "backup")
    backup(store.url, copy)
    told = content(store)
    for lost in ("refs/tasks", "refs", "copies"):
        shutil.rmtree(Path(store.url) / lost)
        whole(backup(copy, store.url))
        found = ModelStore(store.url)
        assert verify_store(found) == [] and content(found) == told
    publish(store, "other", 9)
    document(store, "a/b").unlink()
    report = backup(copy, store.url)
    assert len(report.problems) == 1 and "tasks/other" in report.problems[0]
    assert max(store.versions("a/b")) == 3 and max(store.versions("other")) == 2
    assert verify_store(ModelStore(store.url)) == []


def test_what_was_acknowledged_since_is_not_taken_back(store: ModelStore, tmp_path: Path) -> None:
    """The lost document's second copy tells that the backup is older."""
    copy = str(tmp_path / "backup")
    backup(store.url, copy)
    publish(store, "a/b", 9)
    document(store, "a/b").unlink()
    report = backup(copy, store.url)
    assert len(report.problems) == 1 and not document(store, "a/b").exists()


def test_what_the_page_says_of_single_files(store: ModelStore, tmp_path: Path) -> None:
    """Damaged ones are removed, and come back out of the copy; a task that was removed, too."""
    copy, root = tmp_path / "backup", Path(store.url)
    backup(store.url, str(copy))
    told = content(store)
    os.truncate(document(store, "a/b"), 10)
    assert backup(str(copy), store.url).problems
    document(store, "a/b").unlink()
    whole(backup(str(copy), store.url))
    head = store.resolve("a/b").path.components["head"]
    os.truncate(blob_file(store, head), 10)
    blob_file(store, head).unlink()
    shutil.copy2(copy / "blobs/sha256" / head[7:], root / "blobs/sha256")
    shutil.move(root / "munet-store", tmp_path)
    shutil.copy2(copy / "munet-store", root)
    assert verify_store(ModelStore(root)) == [] and content(store) == told
    store = ModelStore(root)  # by another marker
    store.rm("other")
    transfer(StorePlace(ModelStore(copy)), StorePlace(store), ["other"])
    assert store.resolve("other").version == 2


# -- the command


def command(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of `munet store backup`."""
    return run("backup", *arguments, COLUMNS="80")


def test_the_command(store: ModelStore, tmp_path: Path) -> None:
    copy = str(tmp_path / "backup")
    code, output, errors = command(store.url, copy)
    assert (code, errors) == (0, "") and len(output.splitlines()) == 1 and len(output) <= 81
    assert re.fullmatch(
        r"a new copy: 6 of 6 documents and \d+ blobs \([\d.]+ kB\) copied in [\d.]+ s\n", output
    )
    publish(store, "other", 9)
    os.truncate(document(store, "a/b"), 10)
    code, output, errors = command(store.url, copy)
    assert code == 1 and output.startswith("1 of 6 documents and 4 blobs (")
    assert "refs/tasks/a%2Fb is not backed up" in errors and len(errors.splitlines()) == 2
    code, output, errors = command(store.url, store.url)
    assert code == 1 and output == "" and "expected two places" in errors
