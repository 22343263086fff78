"""What happens when one process is overtaken by another between any two of its steps.

A step is a call of the storage. The other process is played by a function that runs before the
n-th step of the first, for n = 0, 5, 10 …: every fifth interleaving of one with the whole of the
other. With the slow tests it is every n, and every two actions.
"""

import fcntl
import shutil
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from model_store import LeaseLost, ModelStore, StoreError
from model_store.exchange.signing import sign
from model_store.files.gc_handshake import Handshake
from model_store.files.local import LocalStorage
from model_store.files.protocol import Unneeded
from model_store.names import INDEX
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.samples import arrays, new_store, path, publish

KEY = ed25519.Ed25519PrivateKey.generate()
Action = Callable[[ModelStore], object]


WAITING: set[int] = set()  # threads that wait for a lock of a file


def flock(file: Any, operation: int, really: Callable[[Any, int], None] = fcntl.flock) -> None:
    """As the system's; tells who waits."""
    try:
        really(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        if operation & fcntl.LOCK_NB:
            raise
        WAITING.add(threading.get_ident())
        try:
            really(file, operation)
        finally:
            WAITING.discard(threading.get_ident())


class Overtaken:
    """A storage that lets something happen before its n-th call."""

    def __init__(self, storage: LocalStorage, meanwhile: Callable[[], object]) -> None:
        self._storage = storage
        self._left = 10**6
        self._meanwhile = threading.Thread(target=meanwhile, daemon=True)

    def at(self, step: int) -> None:
        """Count from here."""
        self._left = step

    def ended(self) -> bool:
        """Wait for what happened meanwhile; False if nothing did, as there was no n-th call."""
        if not self._meanwhile.ident:
            return False
        self._meanwhile.join(60)
        assert not self._meanwhile.is_alive()
        return True

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left < 0 and not self._meanwhile.ident:
                self._meanwhile.start()
                # It may have to wait for the one it overtakes.
                while self._meanwhile.is_alive() and self._meanwhile.ident not in WAITING:
                    self._meanwhile.join(0.001)
            return found(*arguments, **options)

        return call


class Steps:
    """Runs one action, overtaken by another before its n-th step, for one n in `every`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, every: int = 1) -> None:
        self._folder = folder
        self._patch = monkeypatch
        self._every = every
        monkeypatch.setattr("os.fsync", lambda _: None)  # power cuts are not the subject
        monkeypatch.setattr("fcntl.flock", flock)
        self._template = prepared(folder / "template")

    def run(self, first: str, other: str, *, lease: bool = True) -> None:
        """Require a sound store after each; without `lease`, two gcs may run."""
        for step in range(0, 300, self._every):
            root = shutil.copytree(self._template.url, self._folder / str(step))
            done: list[str] = []
            fast = ModelStore(root)

            def meanwhile(fast: ModelStore = fast, done: list[str] = done) -> None:
                done += [other] if attempt(ACTIONS[other], fast) else []

            storage = Overtaken(LocalStorage(root), meanwhile)
            with self._patch.context() as patch:
                patch.setattr("model_store.store.open_storage", lambda _, it=storage: it)
                slow = ModelStore(root)
            if not lease:
                self._patch.setattr(LocalStorage, "alone", lambda *_: nullcontext(Unneeded()))
            storage.at(step)
            done += [first] if attempt(ACTIONS[first], slow) else []
            if not storage.ended():
                return
            require_sound(ModelStore(root), done)
            shutil.rmtree(root)
        raise AssertionError("the action never came to its end")


def prepared(folder: Path) -> ModelStore:
    """A task of three versions, the second of them live, two agents, and garbage."""
    folder.mkdir(parents=True, exist_ok=True)
    store = new_store(folder)
    for seed in (1, 2, 3):
        publish(store, "t", seed)
    store.rollback("t", 2)
    store.save_agent("agent", {"n": 1}, [store.put(arrays(6))])
    store.put(arrays(7))
    part = store.put_part({"of": "index"}, [store.put(arrays(8))])
    store.save_agent(INDEX, {"part": part}, [], parts=[part])
    return store


def sign_live(store: ModelStore) -> None:
    """Sign version 3, which is not live."""
    digest = store.resolve("t", 3).digest
    store.add_signature(digest, sign(digest, "t", KEY))


def share(store: ModelStore) -> None:
    """Save a state with a part of the index's, which is not looked at again."""
    found = store.load_agent(INDEX)
    assert found
    store.save_agent("agent", {"n": 2}, [], parts=[found["part"]])


def drop(store: ModelStore) -> None:
    """Let the index have the part no longer, and remove it if nobody else needs it."""
    part = store.put_part({"of": "index", "n": 2}, [])
    store.save_agent(INDEX, {"part": part}, [], parts=[part])
    collect_garbage(store, grace_s=0)


ACTIONS: dict[str, Action] = {
    "publish": lambda store: publish(store, "t", 4),
    "publish what is garbage": lambda store: store.publish(
        path("t", {"head": store.put(arrays(7))})
    ),
    "roll back": lambda store: store.rollback("t", 3),
    "promote": lambda store: store.promote("t", 3, lambda live: not live or live.version < 3),
    "alias": lambda store: store.alias("t", "stable", 3),
    "pin": lambda store: store.pin("keep", store.resolve("t", 3).digest),
    "sign": sign_live,
    "save": lambda store: store.save_agent("agent", {"n": 2}, [store.put(arrays(7))]),
    "share a part": share,
    "drop the part": drop,
    "remove a version": lambda store: store.rm("t", 3),
    "remove the task": lambda store: store.rm("t"),
    "gc": lambda store: collect_garbage(store, grace_s=0),
}


def attempt(action: Action, store: ModelStore) -> bool:
    """Whether it was done; refusing is an answer, anything else is not."""
    try:
        action(store)
    except StoreError:
        return False
    return True


def require_sound(store: ModelStore, done: list[str]) -> None:
    """No ref names what is not there, gc works, and what was acknowledged is so."""
    assert verify_store(store) == []
    collect_garbage(store, grace_s=0)
    assert verify_store(store) == []
    live = store.live().get("t")
    if live:
        resolved = store.resolve("t")
        assert (resolved.version, resolved.digest) == live
        assert all(store.component(digest) for digest in resolved.path.components.values())
    if "publish" in done and not {"roll back", "remove the task"} & {*done}:
        assert live and live[0] >= 4
    if "remove a version" in done and "remove the task" not in done:
        assert 3 not in store.versions("t") and done.count("remove a version") == 1
    if "alias" in done and "remove the task" not in done:
        assert store.resolve("t", store.aliases("t")["stable"])
    if "pin" in done:
        assert store.lacks([store.pins()["keep"]]) == []
    if {"save", "share a part"} & {*done}:
        assert store.load_agent("agent") == {"n": 2}


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ("publish", "remove the task"),
        ("publish", "roll back"),
        ("publish what is garbage", "gc"),
        ("roll back", "remove a version"),
        ("promote", "remove a version"),
        ("promote", "publish"),
        ("remove a version", "roll back"),
        ("remove a version", "alias"),
        ("remove a version", "remove a version"),
        ("remove the task", "publish"),
        ("sign", "gc"),
        ("gc", "publish what is garbage"),
        ("share a part", "drop the part"),
        ("drop the part", "share a part"),
    ],
)
def test_an_action_overtaken_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, other: str
) -> None:
    Steps(tmp_path, monkeypatch, every=5).run(first, other)


@pytest.mark.slow
@pytest.mark.parametrize("other", ACTIONS)
@pytest.mark.parametrize("first", ACTIONS)
def test_every_action_overtaken_by_every_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, other: str
) -> None:
    Steps(tmp_path, monkeypatch).run(first, other)


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_two_gcs_as_when_a_lease_ran_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    Steps(tmp_path, monkeypatch, every).run("gc", "gc", lease=False)


def test_a_gc_whose_lease_was_taken_ends(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    key = f"blobs/sha256/{store.put(arrays(7))[7:]}"
    slow, fast = (Handshake(store.storage) for _ in range(2))
    slow.begin(Unneeded())
    slow.propose([key])
    fast.begin(Unneeded())
    for step in (lambda: slow.propose([key]), lambda: slow.doom([key]), slow.end):
        with pytest.raises(LeaseLost, match="took over"):
            step()
    assert fast.doom([key]) == frozenset()


def test_what_a_dead_gc_had_doomed_is_there_for_who_needs_it(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    digest = store.put(arrays(7))
    key = f"blobs/sha256/{digest[7:]}"
    dead = Handshake(store.storage)
    dead.begin(Unneeded())
    dead.propose([key])
    assert dead.doom([key]) == {key}
    assert store.put(arrays(7)) == digest  # at once: nobody holds the gc's lock
    store.publish(path("u", {"head": digest}))
    collect_garbage(store, grace_s=0)
    assert store.component(digest)
