"""Several processes at one store: no version lost or taken twice, nothing read half written."""

import fcntl
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store import BlobNotFound, MissingComponent, ModelStore, digest_of, encode
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.places import Place
from tests.model_store.processes import HANG_S, Answer, start, write
from tests.model_store.samples import arrays, blob_file, new_store, publish
from tests.moments import work


def start_writers(place: Place, writers: int, tasks: list[str], count: int) -> list[Connection]:
    """Start the writers; the connections give their answers."""
    return [start(write, place, writer, tasks, count)[1] for writer in range(writers)]


def collect(answers: list[Connection], meanwhile: Callable[[], object]) -> list[Answer]:
    """Run `meanwhile` again and again until all writers have said that they are done."""
    found: list[Answer] = []
    pending = list(answers)
    give_up = time.monotonic() + HANG_S
    while pending:
        assert time.monotonic() < give_up, "the writers did not finish"
        for ready in wait(pending, timeout=0):
            assert isinstance(ready, Connection)
            answer = ready.recv()
            if answer is None:
                pending.remove(ready)
            else:
                found.append(answer)
        meanwhile()
    return found


def require_all(store: ModelStore, acknowledged: list[Answer], tasks: list[str]) -> None:
    """Every version acknowledged is there as it was published; there is no gap, and no damage."""
    for task in tasks:
        versions = {version: seed for name, version, seed in acknowledged if name == task}
        history = store.history(task)
        assert [item.version for item in history] == list(range(1, len(history) + 1))
        seeds = {item.version: item.path.lineage["seed"] for item in history}
        assert versions.items() <= seeds.items()
        assert store.resolve(task).version >= max(versions)
    assert verify_store(store) == []


@pytest.mark.parametrize(
    ("writers", "tasks"), [(2, ["a"]), pytest.param(4, ["a", "b/c"], marks=pytest.mark.slow)]
)
def test_no_version_is_lost_or_taken_twice(place: Place, writers: int, tasks: list[str]) -> None:
    store = place.open(create=True)
    answers = start_writers(place, writers, tasks, 6)
    acknowledged = collect(answers, lambda: wait(answers, timeout=0.05))
    assert len(acknowledged) == 6 * writers * len(tasks)
    require_all(store, acknowledged, tasks)
    for task in tasks:
        assert store.resolve(task).version == 6 * writers


SWAPS: dict[str, Callable[[ModelStore], object]] = {
    "publish": lambda store: publish(store, "t", 3),
    "rollback": lambda store: store.rollback("t", 1),
    "alias": lambda store: store.alias("t", "stable", 1),
    "rm": lambda store: store.rm("t", 1),
    "save_agent": lambda store: store.save_agent("a", {}, []),
}


def arrivals(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a thread comes to a lock for which it may have to wait."""
    arrived, flock = threading.Event(), fcntl.flock

    def noted(file: Any, operation: int) -> None:
        if operation == fcntl.LOCK_EX:
            arrived.set()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", noted)
    return arrived


@pytest.mark.parametrize("change", SWAPS.values(), ids=SWAPS)
def test_a_swap_waits_for_the_lock_and_reading_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[ModelStore], object]
) -> None:
    store = new_store(tmp_path)
    for seed in (1, 2):
        publish(store, "t", seed)
    with (Path(store.url) / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        changing = threading.Thread(target=change, args=[store], daemon=True)
        locking = arrivals(monkeypatch)
        changing.start()
        assert locking.wait(HANG_S)
        changing.join(0.05)
        assert changing.is_alive()
        assert [item.version for item in store.history("t")][:2] == [1, 2]
        assert store.live()["t"][0] == 2 and store.agents() == [] and store.aliases("t") == {}
    changing.join(60)
    assert not changing.is_alive()
    assert verify_store(store) == []


def test_nobody_waits_for_a_gc_but_another_gc(place: Place) -> None:
    store = place.open(create=True)
    publish(store, "t", 1)
    with store.storage.alone("gc"):
        collecting = threading.Thread(target=collect_garbage, args=(store,), daemon=True)
        collecting.start()
        for name in ("publish", "rollback", "alias", "save_agent"):
            SWAPS[name](store)
        collecting.join(0.3)
        assert collecting.is_alive()
    collecting.join(60)
    assert not collecting.is_alive()
    assert verify_store(store) == []


class Reader:
    """Reads all it can, again and again, and requires that all it sees is whole."""

    def __init__(self, place: Place) -> None:
        self._store = place.open()
        self._seen: dict[str, int] = {}

    def read(self) -> dict[str, int]:
        """One look at everything; task -> the last live version seen."""
        for task, (version, digest) in self._store.live().items():
            assert version >= self._seen.get(task, 0)
            self._seen[task] = version
            found = self._store.resolve(task, version)
            assert found.digest == digest
            component = self._store.component(found.path.components["head"])
            assert isinstance(component, dict)
            expected = arrays(found.path.lineage["seed"])
            np.testing.assert_array_equal(component["kernel"], expected["kernel"])
            versions = [item.version for item in self._store.history(task)]
            assert versions == list(range(1, len(versions) + 1))
        return self._seen


def test_a_reader_sees_only_whole_things_while_others_publish(place: Place) -> None:
    place.open(create=True)
    reader = Reader(place)
    collect(start_writers(place, 2, ["a", "b"], 6), reader.read)
    assert reader.read() == {"a": 12, "b": 12}


OLD_S, STEP_S = 7200.0, 10.0


def make_old(store: ModelStore, seeds: list[int]) -> None:
    """Components that nothing uses, each STEP_S younger than the one before."""
    for number, seed in enumerate(seeds):
        then = time.time() - OLD_S + STEP_S * number
        file = blob_file(store, store.put(arrays(seed)))
        os.utime(file, (then, then))


def test_gc_takes_nothing_from_under_a_publisher(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    # What the writers will put is there already, unused, and becomes old enough to go just about
    # when it is put again: gc and the writers meet at many blobs.
    make_old(store, [s for pair in zip(range(30), range(1000, 1030), strict=True) for s in pair])
    removed = 0

    def keep_collecting() -> None:
        nonlocal removed
        published, _ = store.live().get("a", (0, ""))
        removed += len(collect_garbage(store, grace_s=OLD_S - STEP_S * (published + 2)).removed)

    acknowledged = collect(start_writers(Place(store.url), 2, ["a"], 30), keep_collecting)
    assert len(acknowledged) == 60 and removed > 0
    require_all(store, acknowledged, ["a"])
    for item in store.history("a"):
        store.component(item.path.components["head"])


def publish_what_may_go(place: Place, first: int, count: int, answers: Connection) -> None:
    """Publish components that were put long ago, next to a gc that spares nothing unpublished."""
    store = place.open()
    for seed in range(first, first + count):
        try:
            version = publish(store, "a", seed, lineage={"seed": seed})
        except (MissingComponent, BlobNotFound) as error:
            assert digest_of(encode(arrays(seed))) or error  # gone between put and publish
            continue
        answers.send(("a", version, seed))
    answers.send(None)


@pytest.mark.parametrize("count", [4, pytest.param(16, marks=pytest.mark.slow)])
def test_without_any_grace_a_version_is_whole_or_was_refused(place: Place, count: int) -> None:
    store = place.open(create=True)
    # Without any document, gc refuses to run next to a manifest that was just put.
    first_of_all = publish(store, "first", 0)
    answers = [start(publish_what_may_go, place, first, count)[1] for first in (1, 1001)]

    def keep_collecting() -> None:
        with suppress(BlobNotFound):  # a version whose publisher is just putting its manifest again
            collect_garbage(store, grace_s=0)

    acknowledged = collect(answers, keep_collecting)
    assert verify_store(store) == [] and store.resolve("first").version == first_of_all
    versions = {item.version: item.path.lineage["seed"] for item in store.history("a")}
    assert {version: seed for _, version, seed in acknowledged} == versions


def collect_until_told(place: Place, answers: Connection) -> None:
    """A gc that goes on and on, and says so."""
    store = place.open()
    while True:
        answers.send(
            len(collect_garbage(store, grace_s=5).removed)
        )  # longer than a publish takes, under load


def kill_and_replace(place: Place, kills: int, apart: int) -> tuple[list[Answer], int]:
    """Writers of overlapping tasks, a reader and a gc, killed at random and started again.

    About `apart` versions are acknowledged between two kills, however long that takes.
    """
    moments = random.Random(0)
    tasks = ["a", "b/c", "d"]
    reader = Reader(place)
    acknowledged: list[Answer] = []
    endless = 10**6
    running = {
        writer: start(write, place, 1000 * writer, tasks, endless) for writer in range(7)
    } | {-1: start(collect_until_told, place)}
    for kill in range(kills):
        enough = len(acknowledged) + moments.randint(1, 2 * apart)
        give_up = time.monotonic() + HANG_S
        if kill % 5 == 0:
            reader.read()
        while len(acknowledged) < enough:
            assert time.monotonic() < give_up, "nobody publishes any more"
            for answers in wait([answers for _, answers in running.values()], timeout=1):
                assert isinstance(answers, Connection)
                answer = answers.recv()
                if isinstance(answer, tuple):
                    acknowledged.append(answer)
        work(moments.uniform(0, 50))  # at any moment of theirs
        victim = moments.choice(sorted(running))
        process, answers = running.pop(victim)
        assert process.pid and process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        acknowledged += _rest(answers)
        again = (write, place, 1000 * victim + kill + 1, tasks, endless)
        running[victim] = start(*again) if victim >= 0 else start(collect_until_told, place)
    for process, answers in running.values():
        process.kill()
        process.join()
        acknowledged += _rest(answers)
    return acknowledged, len(reader.read())


def _rest(answers: Connection) -> list[Answer]:
    """What a process that has died had still sent."""
    found: list[Answer] = []
    try:
        while answers.poll():
            answer = answers.recv()
            found += [answer] if isinstance(answer, tuple) else []
    except (EOFError, OSError):
        pass
    return found


def require_sound_after_kills(place: Place, kills: int, apart: int) -> int:
    """Run it; how many versions were acknowledged."""
    store = place.open(create=True)
    acknowledged, seen = kill_and_replace(place, kills, apart)
    assert len(acknowledged) >= kills
    tasks = sorted({task for task, _, _ in acknowledged})
    assert seen >= len(tasks)
    require_all(store, acknowledged, tasks)
    return len(acknowledged)


def test_processes_killed_at_random_lose_nothing(place: Place) -> None:
    require_sound_after_kills(place, kills=4, apart=3)


@pytest.mark.slow
def test_eight_writers_of_fifty_versions_with_readers_and_a_gc(place: Place) -> None:
    store = place.open(create=True)
    tasks = ["a", "b/c"]
    reader = Reader(place)
    gc, _ = start(collect_until_told, place)
    answers = start_writers(place, 8, tasks, 25)
    acknowledged = collect(answers, reader.read)
    gc.kill()
    gc.join()
    assert len(acknowledged) == len(set(acknowledged)) == 8 * 50
    require_all(store, acknowledged, tasks)
    assert reader.read() == dict.fromkeys(tasks, 200)


@pytest.mark.slow
def test_many_processes_killed_at_random_lose_nothing(place: Place) -> None:
    require_sound_after_kills(place, kills=30, apart=10)
