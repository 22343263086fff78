"""`live()` tells a watcher of every change at once, and costs next to nothing without one."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store import ModelStore
from model_store.refs import SETTLE_S
from tests.model_store.samples import new_store, publish


def versions(store: ModelStore) -> dict[str, int]:
    """Task -> live version."""
    return {task: version for task, (version, _) in store.live().items()}


def test_every_change_is_seen_at_once(tmp_path: Path) -> None:
    writer = new_store(tmp_path)
    watcher = ModelStore(writer.root)
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
    publish(writer, "t0", 99)  # version 1 again, of something else
    assert watcher.live()["t0"] == (1, writer.resolve("t0").digest)


def test_the_answer_may_be_changed_by_its_receiver(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    store.live().clear()
    assert store.tasks() == ["t"]


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


def test_a_settled_poll_costs_one_look_however_many_tasks(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    digest = store.resolve("t").digest
    for number in range(500):
        directory = store.root / f"refs/tasks/copy{number}"
        directory.mkdir()
        (directory / "v1").write_text(f"{digest}\n")
        (directory / "live").write_text("v1\n")
    watcher = ModelStore(store.root)
    assert len(watcher.live()) == 501
    assert system_calls(watcher) > 501  # too fresh to be trusted: read once more
    time.sleep(SETTLE_S)
    assert len(watcher.live()) == 501
    assert system_calls(watcher) == 1
    publish(store, "copy7", 2)
    assert versions(watcher)["copy7"] == 2
    assert 500 < system_calls(watcher) < 600  # a look at each task, reading only the changed one


def test_a_task_whose_refs_are_damaged_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = new_store(tmp_path)
    for task in ("good", "bad"):
        publish(store, task, 1)
    os.truncate(store.root / "refs/tasks/bad/v1", 0)
    assert versions(ModelStore(store.root)) == {"good": 1}
    assert "task=bad" in caplog.text


def loop(path: Path) -> None:
    """Makes a file one that exists and cannot be opened, even by root."""
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize("name", ["live", "v1"])
@pytest.mark.parametrize("damage", [loop, lambda path: os.truncate(path, 0)])
def test_a_damaged_ref_keeps_its_last_value_and_hides_no_other(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    store = new_store(tmp_path)
    for task in ("bad", "good"):
        publish(store, task, 1)
    watcher = ModelStore(store.root)
    assert versions(watcher) == {"bad": 1, "good": 1}
    damage(store.root / "refs/tasks/bad" / name)
    publish(store, "good", 2)
    assert versions(watcher) == {"bad": 1, "good": 2}
    assert versions(ModelStore(store.root)) == {"good": 2}
    store.rm("good")
    assert versions(watcher) == {"bad": 1}
