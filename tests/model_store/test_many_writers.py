"""Several processes at one store: no version lost or taken twice, nothing read half written."""

import fcntl
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store import ModelStore
from tests.model_store.samples import arrays, new_store, publish

# A server process, started anew, which has the package loaded and forks: a quick start without
# inheriting the threads of other tests.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.model_store.samples"])


def write(root: Path, writer: int, tasks: list[str], count: int, answer: Connection) -> None:
    """Publish `count` versions of every task; answer with (task, version, seed) of each."""
    store = ModelStore(root)
    acknowledged: list[tuple[str, int, int]] = []
    for number in range(count):
        for task in tasks:
            seed = 1000 * writer + number
            version = publish(store, task, seed, lineage={"seed": seed})
            acknowledged.append((task, version, seed))
    answer.send(acknowledged)


def start_writers(root: Path, writers: int, tasks: list[str], count: int) -> list[Connection]:
    """Start the writers; the connections give their answers."""
    answers: list[Connection] = []
    for writer in range(writers):
        receive, send = processes.Pipe(duplex=False)
        processes.Process(
            target=write, args=(root, writer, tasks, count, send), daemon=True
        ).start()
        send.close()
        answers.append(receive)
    return answers


def collect(answers: list[Connection], meanwhile: Any) -> list[tuple[str, int, int]]:
    """Run `meanwhile` again and again until all writers have answered."""
    found: list[tuple[str, int, int]] = []
    pending = list(answers)
    give_up = time.monotonic() + 120
    while pending:
        assert time.monotonic() < give_up, "the writers did not finish"
        for ready in wait(pending, timeout=0):
            assert isinstance(ready, Connection)
            found += ready.recv()
            pending.remove(ready)
        meanwhile()
    return found


@pytest.mark.parametrize(("writers", "tasks"), [(2, ["a"]), (4, ["a", "b/c"])])
def test_no_version_is_lost_or_taken_twice(tmp_path: Path, writers: int, tasks: list[str]) -> None:
    store = new_store(tmp_path)
    answers = start_writers(store.root, writers, tasks, 10)
    acknowledged = collect(answers, lambda: wait(answers, timeout=0.05))
    for task in tasks:
        versions = {version: seed for name, version, seed in acknowledged if name == task}
        history = store.history(task)
        assert [item.version for item in history] == list(range(1, 10 * writers + 1))
        assert {item.version: item.path.lineage["seed"] for item in history} == versions
        assert store.resolve(task).version == 10 * writers
    assert store.verify() == []


CHANGES: dict[str, Callable[[ModelStore], object]] = {
    "publish": lambda store: publish(store, "t", 3),
    "rollback": lambda store: store.rollback("t", 1),
    "rm": lambda store: store.rm("t", 1),
    "save_agent": lambda store: store.save_agent("a", {}, []),
    "gc": lambda store: store.gc(grace_s=0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_wait_for_each_other_and_reading_does_not(
    tmp_path: Path, change: Callable[[ModelStore], object]
) -> None:
    store = new_store(tmp_path)
    for seed in (1, 2):
        publish(store, "t", seed)
    with (store.root / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        changing = threading.Thread(target=change, args=[store], daemon=True)
        changing.start()
        changing.join(0.3)
        assert changing.is_alive()
        assert [item.version for item in store.history("t")] == [1, 2]
        assert store.live()["t"][0] == 2 and store.agents() == []
    changing.join(60)
    assert not changing.is_alive()
    assert store.verify() == []


def test_a_reader_sees_only_whole_things_while_others_publish(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    seen: dict[str, int] = {}

    def read() -> None:
        for task, (version, digest) in store.live().items():
            assert version >= seen.get(task, 0)
            seen[task] = version
            found = store.resolve(task, version)
            assert found.digest == digest
            component = store.component(found.path.components["head"])
            assert isinstance(component, dict)
            expected = arrays(found.path.lineage["seed"])
            np.testing.assert_array_equal(component["kernel"], expected["kernel"])
        versions = [item.version for item in store.history("a")] if "a" in seen else []
        assert versions == list(range(1, len(versions) + 1))

    collect(start_writers(store.root, 2, ["a", "b"], 12), read)
    read()
    assert seen == {"a": 24, "b": 24}


def test_gc_takes_nothing_from_under_a_publisher(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    # What the writers will put is there already, unused, and becomes old enough to go just about
    # when it is put again: gc and the writers meet at many blobs.
    for number, seed in enumerate(
        seed for pair in zip(range(30), range(1000, 1030), strict=True) for seed in pair
    ):
        then = time.time() - 600 + 0.01 * number
        file = store.root / "blobs/sha256" / store.put(arrays(seed))[7:]
        os.utime(file, (then, then))
    removed = 0

    def collect_garbage() -> None:
        nonlocal removed
        removed += len(store.gc(grace_s=600).removed)
        time.sleep(0.002)

    acknowledged = collect(start_writers(store.root, 2, ["a"], 30), collect_garbage)
    assert len(acknowledged) == 60 and removed > 0
    assert store.verify() == []
    for item in store.history("a"):
        store.component(item.path.components["head"])
