"""Garbage collection removes what nothing needs, and only that; du counts what is left."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_store import BlobNotFound, DamagedStore, ModelStore
from model_store.upkeep import collect_garbage, usage_of, verify_store
from tests.model_store.samples import arrays, files, new_store, path, publish


def age(store: ModelStore, seconds: float) -> None:
    """Make every file of the store this much older."""
    then = time.time() - seconds
    for file in files(store):
        os.utime(file, (then, then))


def test_what_is_published_stays(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for seed in (1, 2):
        publish(store, "t", seed)
    before = files(store)
    report = collect_garbage(store, grace_s=0)
    assert report.removed == () and report.freed_bytes == 0
    assert files(store) == before


def test_what_is_removed_goes_and_what_is_shared_stays(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    publish(store, "u", 2)
    head, shared = (store.resolve("t").path.components[name] for name in ("head", "embedding"))
    store.rm("t")
    before = usage_of(store).disk
    planned = collect_garbage(store, grace_s=0, dry_run=True)
    assert planned.dry_run and store.size(head)
    report = collect_garbage(store, grace_s=0)
    assert set(report.removed) == set(planned.removed)
    assert len(report.removed) == 4 and head in report.removed  # head, path spec, config, manifest
    assert before - usage_of(store).disk == report.freed_bytes
    assert report.kept == 5
    with pytest.raises(BlobNotFound):
        store.component(head)
    store.component(shared)
    assert verify_store(store) == []


def test_the_grace_period_spares_what_was_put_or_used_lately(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    old, fresh = store.put(arrays(1)), store.put(arrays(2))
    age(store, 1000)
    assert collect_garbage(store, grace_s=2000).removed == ()
    store.put(arrays(2))  # there already: nothing is written, but it is needed again
    assert collect_garbage(store, grace_s=500).removed == (old,)
    assert store.size(fresh)


def test_publishing_restarts_the_grace_period(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    components = dict(store.resolve("t").path.components)
    age(store, 1000)
    store.publish(path("u", components))
    store.rm("t")
    store.rm("u")
    assert not set(components.values()) & set(collect_garbage(store, grace_s=500).removed)


def test_leftovers_of_killed_writers_go(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    leftovers = [Path(store.url) / "tmp/~1-a", Path(store.url) / "tmp/~1-b"]
    for file in leftovers:
        file.write_bytes(b"half a blob")
    assert store.tasks() == ["t"] and verify_store(store) == []
    in_use = Path(store.url) / "tmp/~2-c"
    with in_use.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert collect_garbage(store, dry_run=True).temporary_files == 2
        assert all(file.exists() for file in leftovers)
        assert collect_garbage(store).temporary_files == 2
    assert in_use.exists()
    assert not any(file.exists() for file in leftovers)
    assert store.resolve("t").version == 1


def test_nothing_is_removed_while_a_manifest_is_unreadable(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    garbage = store.put(arrays(9))
    manifest = Path(store.url) / "blobs/sha256" / store.resolve("t").digest[7:]
    manifest.write_bytes(b"x" * manifest.stat().st_size)
    with pytest.raises(DamagedStore, match=manifest.name):
        collect_garbage(store, grace_s=0)
    assert store.size(garbage)


def test_usage(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    assert usage_of(store).ratio == 1.0
    publish(store, "a", 1)
    publish(store, "b", 2)
    publish(store, "b", 3)  # version 2 is history: on disk, but not served
    shared = store.size(store.resolve("a").path.components["embedding"])
    own = store.size(store.resolve("a").path.components["head"])
    usage = usage_of(store)
    assert [(task.task, task.version) for task in usage.tasks] == [("a", 1), ("b", 2)]
    for task in usage.tasks:
        assert (task.own, task.shared, task.total) == (own, shared, own + shared)
    assert usage.logical == 2 * (own + shared)
    assert usage.stored == 2 * own + shared
    assert usage.ratio == usage.logical / usage.stored
    assert usage.disk == sum(f.stat().st_size for f in (Path(store.url) / "blobs/sha256").iterdir())


@pytest.mark.parametrize("times", ["apart", "equal"])
def test_a_task_that_a_list_leaves_out_while_it_is_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: str
) -> None:
    """As on tmpfs and btrfs: a file that is replaced meanwhile is in no place of the list. A change
    just before may have given the directory the very time that the replacement gives it.
    """
    store = new_store(tmp_path)
    publish(store, "t", 1)
    if times == "equal":  # every directory has changed a moment ago
        monkeypatch.setattr("model_store.files.local.time", SimpleNamespace(time_ns=lambda: 0))
    listed, last, left_out = os.scandir, "", 0

    @contextmanager
    def scandir(directory: Path) -> Iterator[list[os.DirEntry[str]]]:
        nonlocal last, left_out
        with listed(directory) as entries:
            found = list(entries)
        if {"refs", "copies"} & {*directory.parts} and str(directory) != last:
            left_out += 1
            if times == "apart":
                os.utime(directory, ns=(left_out, left_out))  # as replacing a file does
            found = []
        last = str(directory)
        yield found

    monkeypatch.setattr(os, "scandir", scandir)
    assert collect_garbage(store, grace_s=0).removed == ()
    assert left_out > 8
    assert ModelStore(store.url).tasks() == ["t"]
    assert verify_store(store) == []


@pytest.mark.parametrize("error", [PermissionError(1, "no"), OSError(16, "busy")])
def test_what_the_system_does_not_let_go_keeps_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    for seed in range(40):
        store.put(arrays(100 + seed))
    garbage = sorted(collect_garbage(store, grace_s=-1, dry_run=True).removed)
    assert len(garbage) == 40
    held, unlink = {garbage[0][7:], garbage[17][7:]}, os.unlink

    def refusing(path: Any, **named: Any) -> None:
        if os.path.basename(path) in held:
            raise OSError(error.errno, error.strerror)
        unlink(path, **named)

    monkeypatch.setattr(os, "unlink", refusing)
    with pytest.raises(type(error), match=garbage[0][7:]):
        collect_garbage(store, grace_s=-1)
    assert {
        digest[7:] for digest in collect_garbage(store, grace_s=-1, dry_run=True).removed
    } == held
    assert verify_store(store, under_way=True) == []
    publish(store, "t", 2)  # who needs what was refused need not wait
    monkeypatch.undo()
    assert {digest[7:] for digest in collect_garbage(store, grace_s=-1).removed} == held
