"""`live()` tells a watcher of every change at once, and costs next to nothing without one."""

import os
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path

import pytest

from model_store import ModelStore, StoreNotFound, watching
from tests.model_store.samples import copy_document, document, new_store, publish


def versions(store: ModelStore) -> dict[str, int]:
    """Task -> live version."""
    return {task: version for task, (version, _) in store.live().items()}


def test_every_change_is_seen_at_once(tmp_path: Path) -> None:
    writer = new_store(tmp_path)
    watcher = ModelStore(writer.url)
    assert versions(watcher) == {}
    expected: dict[str, int] = {}
    for seed in range(30):  # as fast as the disk allows: file times may repeat
        task = f"t{seed % 3}"
        expected[task] = publish(writer, task, seed)
        assert versions(watcher) == expected
    writer.rollback("t0", 1)
    assert versions(watcher) == {**expected, "t0": 1}
    writer.rm("t1")
    assert versions(watcher) == {"t0": 1, "t2": expected["t2"]}
    writer.rm("t0")
    assert versions(watcher) == {"t2": expected["t2"]}
    assert publish(writer, "t0", 99) == 11  # a number never means something else
    assert watcher.live()["t0"] == (11, writer.resolve("t0").digest)


def test_the_answer_stays_what_it_was_and_cannot_be_changed(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    before = store.live()
    publish(store, "u", 2)
    assert store.tasks() == ["t", "u"]
    assert list(before) == ["t"]
    assert not isinstance(before, MutableMapping)


def system_calls(store: ModelStore) -> int:
    """How many functions of `os` and `io` one poll calls."""
    calls: list[str] = []

    def note(frame: object, event: str, called: object) -> None:
        if event == "c_call" and getattr(called, "__module__", "") in ("posix", "_io", "io"):
            calls.append(getattr(called, "__name__", ""))

    sys.setprofile(note)
    try:
        store.live()
    finally:
        sys.setprofile(None)
    return len(calls)


def copies(store: ModelStore, count: int) -> None:
    """This many further tasks, put there as a copy of a store would."""
    for number in range(count):
        copy_document(store, "t", f"copy{number}")


def test_a_settled_poll_reads_one_file_however_many_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    for count in (10, 500):
        store = new_store(tmp_path / str(count))
        publish(store, "t", 1)
        copies(store, count)
        watcher = ModelStore(store.url)
        assert len(watcher.live()) == count + 1
        assert system_calls(watcher) < 20  # the task in the log is looked at again for a while
        monkeypatch.setattr("model_store.watching.ANNOUNCED_S", 0.0)
        watcher.live()
        calls.append(system_calls(watcher))
        monkeypatch.undo()
        publish(store, "copy7", 2)
        assert versions(watcher)["copy7"] == 2
        assert system_calls(watcher) < 20
    assert calls[0] == calls[1] <= 5


def test_a_change_that_nobody_announced_is_found_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    watcher = ModelStore(store.url)
    assert versions(watcher) == {"t": 1}
    copies(store, 1)
    assert versions(watcher) == {"t": 1}
    monkeypatch.setattr("model_store.watching.RESCAN_S", 0.0)
    assert versions(watcher) == {"t": 1, "copy0": 1}


def test_a_change_long_after_its_announcement_is_seen(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    watcher = ModelStore(store.url)
    watching.announce(store.storage, "u")
    for _ in range(3):
        assert versions(watcher) == {"t": 1}
    copy_document(store, "t", "u")
    assert versions(watcher) == {"t": 1, "u": 1}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff" * 10, b"[" * 100_000, b'{"count": "x", "log": 1, "tasks": []}',
     b'{"count": 1, "log": "a", "tasks": ["../x"]}', b'{"count": 1, "log": "a", "tasks": [5]}'],
)  # fmt: skip
def test_a_damaged_log_only_costs_time(tmp_path: Path, content: bytes) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    watcher = ModelStore(store.url)
    assert versions(watcher) == {"t": 1}
    (Path(store.url) / "refs/changes").write_bytes(content)
    copies(store, 1)
    assert versions(watcher) == {"t": 1, "copy0": 1}
    publish(store, "t", 2)
    assert versions(watcher) == {"t": 2, "copy0": 1}


def test_a_disk_that_goes_away_removes_no_task(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    for away in (Path(store.url), Path(store.url) / "refs", Path(store.url) / "refs/tasks"):
        watcher = ModelStore(store.url)
        assert versions(watcher) == {"t": 1}
        away.rename(tmp_path / "away")
        try:
            assert versions(watcher) == {"t": 1}  # the log alone is there
        except StoreNotFound as error:
            assert store.url in str(error)
        (tmp_path / "away").rename(away)
        assert versions(watcher) == {"t": 1}


def test_a_watcher_that_missed_more_than_the_log_holds_looks_at_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_store.watching.MAX_TASKS", 3)
    store = new_store(tmp_path)
    watcher = ModelStore(store.url)
    assert versions(watcher) == {}
    for number in range(5):
        publish(store, f"t{number}", number)
    assert versions(watcher) == {f"t{number}": 1 for number in range(5)}


def test_a_task_whose_refs_are_damaged_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = new_store(tmp_path)
    for task in ("good", "bad"):
        publish(store, task, 1)
    os.truncate(document(store, "bad"), 0)
    assert versions(ModelStore(store.url)) == {"good": 1}
    assert "task=bad" in caplog.text


def loop(path: Path) -> None:
    """Makes a file one that exists and cannot be opened, even by root."""
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize("damage", [loop, lambda path: os.truncate(path, 0), Path.unlink])
def test_a_damaged_document_keeps_its_last_value_and_hides_no_other(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = new_store(tmp_path)
    for task in ("bad", "good"):
        publish(store, task, 1)
    watcher = ModelStore(store.url)
    assert versions(watcher) == {"bad": 1, "good": 1}
    damage(document(store, "bad"))
    publish(store, "good", 2)
    assert versions(watcher) == {"bad": 1, "good": 2}
    assert versions(ModelStore(store.url)) == {"good": 2}
    store.rm("good")
    assert versions(watcher) == {"bad": 1}
