"""While others write, a backup holds, whole, all that was acknowledged before it began."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from model_store import MissingComponent, ModelStore, StoreNotFound
from model_store.exchange.signing import sign
from model_store.files.local import LocalStorage
from model_store.upkeep import collect_garbage, verify_store
from model_store.upkeep.backup import backup
from tests.model_store.backup.full_store import KEY, content, fill, require_equal, whole
from tests.model_store.forks import fork, in_a_fresh_process
from tests.model_store.object_stores import S3Server
from tests.model_store.places import Place, local_place
from tests.model_store.processes import HANG_S, Answer, processes, start, write
from tests.model_store.samples import arrays, new_store, publish

Action = Callable[[ModelStore], object]


# -- overtaken by one operation, and a gc, between any two steps


def remove_and_collect(store: ModelStore) -> None:
    """A version goes, with its bytes."""
    store.rm("a/b", 3) if "canary" not in store.aliases("a/b") else store.rm("a/b")
    collect_garbage(store, grace_s=0)


def publish_again(store: ModelStore) -> None:
    """The same bytes go, and come again as another version."""
    store.rm("other")
    collect_garbage(store, grace_s=0)
    publish(store, "other", 4)


def save_and_collect(store: ModelStore) -> None:
    """An agent's state goes, with its bytes."""
    store.save_agent("agent/x", {"n": 2}, [store.put(arrays(7))])
    collect_garbage(store, grace_s=0)


def unpin_and_collect(store: ModelStore) -> None:
    """What only a pin kept goes."""
    store.rm("other")
    store.unpin("keep/this")
    collect_garbage(store, grace_s=0)


def save_a_pair(store: ModelStore, number: int = 2) -> None:
    """Two states, of which one names the other."""
    digest = store.save_agent("b/named", {"n": number}, [store.put(arrays(number + 5))])
    store.save_agent("a/naming", {"named": digest}, [store.put(arrays(number + 6))])


def save_a_pair_and_collect(store: ModelStore) -> None:
    """The former two go."""
    save_a_pair(store)
    collect_garbage(store, grace_s=0)


def require_a_pair(store: ModelStore) -> None:
    """One names the other that is there."""
    naming, named = store.load_agent("a/naming"), store.agent_state("b/named")
    assert naming and named and naming["named"] == named[0]


def publish_signed(store: ModelStore) -> None:
    """A version comes with a signature, both before the next step."""
    publish(store, "other", 9)
    digest = store.resolve("other").digest
    store.add_signature(digest, sign(digest, "other", KEY))


MEANWHILE: dict[str, Action] = {
    "publish": lambda store: publish(store, "a/b", 9),
    "publish the first": lambda store: publish(store, "new", 9),
    "remove and collect": remove_and_collect,
    "publish again": publish_again,
    "save and collect": save_and_collect,
    "unpin and collect": unpin_and_collect,
    "save a pair": save_a_pair,
    "save a pair and collect": save_a_pair_and_collect,
    "publish signed": publish_signed,
}


class Overtaken:
    """A storage that does something just before its n-th call, whichever thread makes that."""

    def __init__(self, storage: LocalStorage, step: int, action: Callable[[], object]) -> None:
        self._storage = storage
        self._left = step
        self._action = action
        self._lock = threading.Lock()

    def done(self) -> bool:
        """Whether there was an n-th call."""
        return self._left < 0

    def __getattr__(self, name: str) -> Any:
        if name == "read_many":  # no two files are read at the same time
            return lambda keys: {key: self._count("read_many", [key])[key] for key in keys}
        found = getattr(self._storage, name)
        return partial(self._count, name) if callable(found) else found

    def _count(self, name: str, *arguments: Any, **options: Any) -> Any:
        with self._lock:
            self._left -= 1
            if self._left == -1:
                self._action()
        return getattr(self._storage, name)(*arguments, **options)


def parts(store: ModelStore) -> dict[tuple[str, str], Any]:
    """What each document tells."""
    told = content(store)
    return {(kind, name): value for kind, of in told.items() for name, value in of.items()}


@pytest.mark.parametrize(
    ("other", "stride"),
    [
        ("remove and collect", 17),
        ("publish again", 17),
        ("save a pair and collect", 17),
        *(pytest.param(other, 1, marks=pytest.mark.slow) for other in MEANWHILE),
    ],
)
def test_overtaken_between_any_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str, stride: int
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    template = new_store(tmp_path)
    fill(template)
    save_a_pair(template, 1)
    for step in range(stride // 2, 400, stride):
        source = ModelStore(shutil.copytree(template.url, tmp_path / f"source-{step}"))
        before, copy = parts(source), str(tmp_path / f"copy-{step}")
        here, there = LocalStorage(Path(source.url)), LocalStorage(Path(copy))
        overtaken = Overtaken(here, step, lambda s=source: MEANWHILE[other](s))
        storages = {source.url: overtaken, copy: there}
        with monkeypatch.context() as patch:
            patch.setattr("model_store.upkeep.backup.open_storage", storages.__getitem__)
            whole(backup(source.url, copy))
        found = ModelStore(copy)
        assert verify_store(found) == []
        if not overtaken.done():
            require_equal(source, copy)
            break
        after, told = parts(source), parts(found)
        require_a_pair(found)
        for key in {*before, *after, *told}:
            assert told.get(key) in (before.get(key), after.get(key)), (step, key)
        shutil.rmtree(source.url)
        shutil.rmtree(copy)
    else:
        raise AssertionError("the backup never came to its end")
    assert step > 10


def test_what_agents_say_of_each_other_is_of_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, copy = new_store(tmp_path), str(tmp_path / "copy")
    save_a_pair(source, 1)
    read, left = LocalStorage.read, [save_a_pair]

    def overtaken(storage: LocalStorage, key: str) -> Any:
        if key == "refs/agents/b%2Fnamed" and storage.url == source.url and left:
            left.pop()(source)  # the other one has been read
        return read(storage, key)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "read", overtaken)
        whole(backup(source.url, copy))
    assert not left
    require_a_pair(ModelStore(copy))


# -- killed before any step


STEPS = ("write", "link", "replace", "unlink", "mkdir", "utime", "ftruncate")


def back_up_and_die(step: int, source: Path, copy: Path) -> None:
    """Back up, and die just before the given step that changes what others see."""
    left = step

    def count(frame: object, event: str, called: object) -> None:
        nonlocal left
        if event == "c_call" and getattr(called, "__name__", "") in STEPS:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(count)
    sys.setprofile(count)
    backup(str(source), str(copy))
    sys.setprofile(None)


def kill_backups(folder: Path, before: bool, stride: int) -> int:
    """Kill one before each of its steps in turn; how many steps there were."""
    source = new_store(folder)
    fill(source)
    template = folder / "template"
    if before:
        backup(source.url, str(template))
        publish(source, "a/b", 9)
        source.rm("other")
        source.save_agent("agent/x", {"n": 2}, [])
    held = parts(ModelStore(template)) if before else {}
    told = parts(source)
    for step in range(0, 400, stride):
        copy = folder / str(step)
        if before:
            shutil.copytree(template, copy)
        child = fork(lambda step=step, copy=copy: back_up_and_die(step, Path(source.url), copy))
        _, status = os.waitpid(child, 0)
        try:
            found = ModelStore(copy)
        except StoreNotFound:  # not whole yet, and nobody takes it for a store
            assert not before
        else:
            assert not [p for p in verify_store(found) if p.severity == "error"]
            for key, value in parts(found).items():
                assert value in (held.get(key), told.get(key)), (step, key)
            assert parts(found).keys() >= held.keys() & told.keys()
            assert before or parts(found) == told
        whole(backup(source.url, str(copy)))
        require_equal(source, str(copy))
        shutil.rmtree(copy)
        if not status:
            return step
        assert os.WTERMSIG(status) == signal.SIGKILL
    raise AssertionError("the backup never came to its end")


@pytest.mark.parametrize(
    ("before", "stride"),
    [
        (True, 16),
        (False, 41),
        pytest.param(True, 1, marks=pytest.mark.slow),
        pytest.param(False, 1, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_killed_before_any_step(tmp_path: Path, before: bool, stride: int) -> None:
    assert in_a_fresh_process(kill_backups, tmp_path, before, stride) > 30


# -- next to real processes


def save_and_pin(place: Place, count: int, answers: Connection) -> None:
    """Save an agent's state, pin it, and sign what is live of a task; answer each number."""
    store = place.open()
    publish(store, "signed", 0)
    for number in range(1, count + 1):
        while True:
            with suppress(MissingComponent):  # a gc without a grace period was quicker
                digest = store.save_agent("agent", {"n": number}, [store.put(arrays(number))])
                break
        store.pin(f"pin/{number}", digest)
        live = store.resolve("signed").digest
        store.add_signature(live, sign(live, "signed", ed25519.Ed25519PrivateKey.generate()))
        answers.send(("agent", number, 0))
    answers.send(None)


def publish_and_remove(place: Place, count: int, answers: Connection) -> None:
    """Let the same two versions come and go."""
    store = place.open()
    for number in range(count):
        with suppress(MissingComponent):
            publish(store, "passing", number % 2)
            publish(store, "passing", number % 2 + 2)
        if store.versions("passing"):
            store.rm("passing")
    answers.send(None)


def keep_collecting(place: Place, stop: Connection, answers: Connection) -> None:
    """A gc after the other."""
    store = place.open()
    while not stop.poll():
        collect_garbage(store, grace_s=0)
    answers.send(None)


def require_acknowledged(copy: ModelStore, known: Sequence[Answer]) -> None:
    """What was acknowledged is there, readable, and nothing is wrong."""
    assert [p for p in verify_store(copy) if p.severity == "error"] == []
    told = content(copy)
    for name, number, seed in known:
        if name == "agent":
            assert told["agents"]["agent"][1]["n"] >= number
            assert f"pin/{number}" in told["pins"]
            (signed,) = copy.versions("signed").values()
            assert len(copy.signatures(signed)) >= number
        else:
            assert copy.resolve(name, number).path.lineage["seed"] == seed
            assert copy.resolve(name).version >= number


def back_up_beside(source: Place, copy: Place, count: int) -> int:
    """Back up again and again next to writers and a gc; how many times."""
    store = source.open(create=True)
    end, stopped = processes.Pipe()
    pending = [
        start(write, source, 1, ["a", "b/c"], count)[1],
        start(save_and_pin, source, count)[1],
        start(publish_and_remove, source, count)[1],
    ]
    collecting, _ = start(keep_collecting, source, stopped)
    known: list[Answer] = []
    backups = 0
    give_up = time.monotonic() + HANG_S
    while pending:
        assert time.monotonic() < give_up, "the writers did not finish"
        for ready in wait(pending, timeout=0):
            assert isinstance(ready, Connection)
            answer = ready.recv()
            known += [answer] if answer else []
            pending = [other for other in pending if answer or other is not ready]
        if known:
            whole(backup(source.url, copy.url))
            require_acknowledged(copy.open(), known)
            backups += 1
    end.send(None)
    collecting.join(HANG_S)
    assert len(known) == 3 * count
    whole(backup(source.url, copy.url))
    require_equal(store, copy.url)
    return backups


@pytest.mark.parametrize("count", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_beside_writers_and_a_gc(tmp_path: Path, count: int) -> None:
    assert back_up_beside(local_place(tmp_path), Place(str(tmp_path / "copy")), count) > 1


@pytest.mark.slow
@pytest.mark.parametrize("where", ["to S3", "from S3", "within S3"])
def test_beside_writers_and_a_gc_in_a_bucket(
    s3: S3Server, s3_store: Place, tmp_path: Path, where: str
) -> None:
    source = local_place(tmp_path) if where == "to S3" else s3_store
    url = str(tmp_path / "copy") if where == "from S3" else f"{s3_store.url}-copy"
    assert back_up_beside(source, Place(url, s3_store.environment), 15) > 1
