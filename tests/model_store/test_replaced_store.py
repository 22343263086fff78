"""A store whose folder is replaced while somebody works in it, as by who restores a backup: nothing
is removed from the one that is put there, and no change goes half into each.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from model_store import LeaseLost, ModelStore, StoreError, StoreNotFound
from model_store.files import atomic
from model_store.files.leases import Held
from model_store.upkeep import collect_garbage, verify_store
from model_store.upkeep.backup import backup
from tests.model_store.samples import new_store, publish

CALLS = ("open", "link", "replace", "unlink", "utime", "scandir", "fsync", "lstat")


@contextmanager
def at_call(number: int, act: Callable[[], None]) -> Iterator[list[int]]:
    """Do something just before the system call of this number; counts the calls made."""
    made = [0]
    patch = pytest.MonkeyPatch()

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            made[0] += 1
            if made[0] == number:
                act()
            return real(*arguments, **named)

        return call

    for name in CALLS:
        patch.setattr(os, name, counted(getattr(os, name)))
    try:
        yield made
    finally:
        patch.undo()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, of which a task has just been removed by mistake, and a backup that has it."""
    directory = tmp_path_factory.mktemp("template")
    store = new_store(directory)
    for seed, task in enumerate(("a", "b", "c")):
        publish(store, task, seed)
    backup(store.url, str(directory / "backup"))
    store.rm("b")
    return directory


def prepared(template: Path, directory: Path) -> tuple[Path, Path]:
    """Both of them, new."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(template, directory)
    return directory / "store", directory / "backup"


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder for many stores, where syncing costs nothing."""
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shared) as directory:
        yield Path(directory)


def sweep(
    template: Path, directory: Path, every: int, operation: Callable[[ModelStore], Any]
) -> Iterator[str]:
    """The store that was put in place before each of an operation's calls."""
    with at_call(0, lambda: None) as made:
        operation(ModelStore(prepared(template, directory)[0]))
    assert made[0] > 5
    for number in range(1, made[0] + 1, every):
        place, copy = prepared(template, directory)
        store = ModelStore(place)

        def replace(place: Path = place, copy: Path = copy) -> None:
            os.rename(place, place.with_name("before"))
            os.rename(copy, place)

        with at_call(number, replace), suppress(StoreError, OSError):
            operation(store)
        if not copy.exists():  # else there were fewer calls this time
            yield str(place)


OPERATIONS: dict[str, Callable[[ModelStore], Any]] = {
    "gc": lambda store: collect_garbage(store, grace_s=-1),
    "publish": lambda store: publish(store, "a", 9),
    "rollback": lambda store: store.rollback("a", 1),
    "alias": lambda store: store.alias("a", "stable", 1),
    "pin": lambda store: store.pin("p", store.version("a", 1)),
    "rm": lambda store: store.rm("a"),
    "save": lambda store: store.save_agent("x", {"n": 1}, []),
}
EVERY = {"gc": 7, "publish": 9, "rollback": 3, "alias": 9, "pin": 9, "rm": 9, "save": 9}


@pytest.mark.parametrize(
    ("name", "every"),
    [
        *EVERY.items(),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in OPERATIONS),
    ],
)
def test_the_store_put_in_place_is_whole(
    template: Path, memory: Path, name: str, every: int
) -> None:
    for url in sweep(template, memory / "x", every, OPERATIONS[name]):
        store = ModelStore(url)
        assert verify_store(store) == []
        assert {"a", "b", "c"} <= {*store.tasks()} or name == "rm"


def test_who_opened_the_store_before_is_told_to_open_it_again(
    template: Path, tmp_path: Path
) -> None:
    place, copy = prepared(template, tmp_path / "x")
    store = ModelStore(place)
    store.alias("a", "first", 1)
    os.rename(place, tmp_path / "before")
    os.rename(copy, place)
    with pytest.raises(StoreNotFound, match="open it again"):
        store.alias("a", "second", 1)
    ModelStore(place).alias("a", "second", 1)
    assert ModelStore(place).aliases("a") == {"second": 1}


def test_a_store_that_was_away_is_written_to_again(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "a", 1)
    place = Path(store.url)
    os.rename(place, tmp_path / "away")
    with pytest.raises((StoreNotFound, OSError)):
        publish(store, "a", 2)
    os.rename(tmp_path / "away", place)
    assert publish(store, "a", 3) == 2


def test_who_is_an_agent_learns_that_its_lock_is_gone(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    with store.hold("x") as held:
        held.check()
        (Path(store.url) / "lock.agents/x").unlink()
        with ModelStore(store.url).hold("x") as second:  # nothing can keep it from that
            with pytest.raises(LeaseLost, match="lock"):
                held.check()
            second.check()
    with store.hold("x") as third:
        assert isinstance(third, Held)


def test_a_lock_that_was_removed_is_not_taken_by_two(tmp_path: Path) -> None:
    """Those who waited for the file that is gone wait for the one that is there."""
    path = tmp_path / "lock"
    inside, most = [0], [0]
    guard = threading.Lock()

    def work() -> None:
        for _ in range(20):
            with atomic.Lock(path).held():
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                with guard:
                    inside[0] -= 1

    with atomic.Lock(path).held():
        waiting = [threading.Thread(target=work) for _ in range(3)]
        for thread in waiting:
            thread.start()
        path.unlink()
    for thread in waiting:
        thread.join(60)
    assert most[0] == 1
