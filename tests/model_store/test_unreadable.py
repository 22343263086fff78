"""A ref that cannot be read takes only its own task away, and that only until it can be read."""

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from model_store import ModelStore, StorageError
from model_store.exchange.oci_layout import LayoutPlace
from model_store.upkeep import verify_store
from model_store.watching import View
from tests.model_store.places import Place
from tests.model_store.samples import arrays, document, new_store, publish
from tests.unprivileged import unprivileged

TOP = Path(__file__).parents[2]
VIEW = """
import json, sys
from model_store import ModelStore
view = ModelStore(sys.argv[1]).watched()
print(json.dumps([sorted(view.live), {task: str(error) for task, error in view.unread.items()}]))
"""
Fail = Callable[[str], Exception]


def os_error(number: int) -> Fail:
    return lambda name: OSError(number, os.strerror(number), name)


LOCAL: dict[str, Fail] = {
    name: os_error(getattr(errno, name)) for name in ("EACCES", "EIO", "ESTALE")
}
OBJECT: dict[str, Fail] = {
    "403": lambda name: PermissionDeniedError(f"403 for {name}"),
    "500": lambda name: GenericError(f"500 for {name}"),
}


@contextmanager
def failing(place: Place, fault: str, *ends: str) -> Iterator[None]:
    """Reads of what ends so fail in this process."""
    real_open, real_get = os.open, obstore.get

    def opened(file: Any, *rest: Any, **more: Any) -> int:
        if str(file).endswith(ends):
            raise LOCAL[fault](str(file))
        return real_open(file, *rest, **more)

    def got(store: Any, key: str, *rest: Any, **more: Any) -> Any:
        if key.endswith(ends):
            raise OBJECT[fault](key)
        return real_get(store, key, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        if place.environment:
            patch.setattr(obstore, "get", got)
        else:
            patch.setattr(os, "open", opened)
        yield


def versions(view: View) -> dict[str, int]:
    return {task: version for task, (version, _) in view.live.items()}


@pytest.fixture(params=[*(("local", fault) for fault in LOCAL), *(("s3", f) for f in OBJECT)])
def faulty(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Place, str]:
    """A place, and a fault that it can have."""
    kind, fault = request.param
    if kind == "s3":
        return request.getfixturevalue("s3_store"), fault
    return Place(str(tmp_path / "store")), fault


def test_a_ref_that_cannot_be_read_is_its_tasks_trouble_alone(faulty: tuple[Place, str]) -> None:
    place, fault = faulty
    writer = place.open(create=True)
    for task in ("bad", "moved", "gone"):
        publish(writer, task, 1)
    publish(writer, "moved", 2)
    knew = place.open()
    knew.watched()
    with failing(place, fault, "refs/tasks/bad"):
        fresh = place.open()
        assert versions(fresh.watched()) == {"moved": 2, "gone": 1}
        (error,) = fresh.watched().unread.values()
        assert "bad" in str(error)
        writer.rollback("moved", 1)  # what moves, goes and comes meanwhile is seen
        writer.rm("gone")
        publish(writer, "added", 1)
        others = {"moved": 1, "added": 1}
        assert versions(fresh.watched()) == others
        assert versions(knew.watched()) == {**others, "bad": 1}
        assert fresh.live() == fresh.watched().live
    for watcher in (knew, fresh):
        for _ in range(100):  # tried again at longer and longer intervals
            if "bad" not in watcher.watched().unread:
                break
        assert watcher.watched().unread == {}
        assert versions(watcher.watched()) == {**others, "bad": 1}


def test_a_new_version_whose_refs_cannot_be_read_leaves_the_old_one(
    faulty: tuple[Place, str],
) -> None:
    place, fault = faulty
    writer = place.open(create=True)
    publish(writer, "a", 1)
    watcher = place.open()
    watcher.watched()
    publish(writer, "a", 2)
    with failing(place, fault, "refs/tasks/a"):
        view = watcher.watched()
        assert versions(view) == {"a": 1}
        assert "refs/tasks/a" in str(view.unread["a"])
    for _ in range(100):
        watcher.watched()
    assert versions(watcher.watched()) == {"a": 2}


def test_the_log_of_changes_may_be_unreadable(faulty: tuple[Place, str]) -> None:
    place, fault = faulty
    writer = place.open(create=True)
    publish(writer, "a", 1)
    watcher = place.open()
    watcher.watched()
    publish(writer, "b", 1)
    with failing(place, fault, "refs/changes"):
        assert versions(watcher.watched()) == {"a": 1, "b": 1}
        assert versions(place.open().watched()) == {"a": 1, "b": 1}


def test_a_listing_that_fails_is_an_outage_and_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = place.open(create=True)
    publish(store, "a", 1)
    watcher = place.open()
    before = watcher.watched()

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "stale") if not place.environment else GenericError("500")

    with monkeypatch.context() as patch:
        for module, name in ((os, "scandir"), (os, "open"), (obstore, "get")):
            patch.setattr(module, name, fails)
        patch.setattr(obstore, "list_with_delimiter", fails)
        patch.setattr(obstore, "head", fails)
        with pytest.raises((OSError, StorageError)):
            watcher.watched()
    assert watcher.watched() is before
    publish(store, "b", 1)
    assert versions(watcher.watched()) == {"a": 1, "b": 1}


def test_each_error_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = new_store(tmp_path)
    publish(store, "bad", 1)
    document(store, "bad").write_bytes(b"\xff\n")
    fresh = ModelStore(store.url)
    for _ in range(5):
        fresh.watched()
    assert caplog.text.count("ref_unreadable") == 1


Change = Callable[[Path], object]


def chmod(mode: int) -> Change:
    return lambda path: path.chmod(mode)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Change] = {
    "unreadable": chmod(0),
    "a pipe": pipe,
    "a directory": directory,
    "garbage": lambda path: path.write_bytes(b"\x00\xff" * 3000),
    "empty": lambda path: os.truncate(path, 0),
}


def test_permissions_and_what_is_no_ref(tmp_path: Path) -> None:
    """As a process sees them that heeds permissions: each task's trouble is its own."""
    store = new_store(tmp_path)
    tasks = {f"bad{number}": damage for number, damage in enumerate(DAMAGE)}
    for task in ("good", *tasks):
        publish(store, task, 1)
    refs = Path(store.url) / "refs/tasks"
    for task, damage in tasks.items():
        DAMAGE[damage](refs / task)
    try:
        done = subprocess.run(
            unprivileged([sys.executable, "-c", VIEW, store.url]),
            cwd=TOP, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        for task in tasks:
            (refs / task).chmod(0o755)
    assert done.returncode == 0, done.stderr
    live, unread = json.loads(done.stdout)
    assert live == ["good"]
    assert unread.keys() == tasks.keys()
    for task, reason in unread.items():
        assert str(refs / task) in reason  # where to look


WRITE = """
import os, sys
os.umask(0o077)
from model_store import ModelStore
from model_store.upkeep import collect_garbage
from tests.model_store.samples import arrays, publish
store = ModelStore(sys.argv[1], create=True)
publish(store, "a/b", 1)
version = publish(store, "a/b", 2)
store.alias("a/b", "stable", 1)
store.pin("p", store.resolve("a/b").digest)
with store.hold("agent/x"):
    store.save_agent("agent/x", {"n": 1}, [store.put(arrays(3))])
store.rollback("a/b", 1)
store.rm("a/b", 2)
collect_garbage(store, grace_s=0)
"""


@pytest.mark.parametrize("mode", [0o755, 0o2775, 0o700])
def test_everything_in_a_store_has_the_permissions_of_its_folder(tmp_path: Path, mode: int) -> None:
    """With every umask of who writes."""
    root = tmp_path / "store"
    root.mkdir()
    if os.geteuid() == 0:
        os.chown(root, 12, 3456)  # a group of its own
    root.chmod(mode)
    subprocess.run([sys.executable, "-c", WRITE, str(root)], cwd=TOP, check=True)
    found = root.stat()
    seen = 0
    for path in root.rglob("*"):
        status = path.stat()
        seen += 1
        expected = mode & (0o2777 if path.is_dir() else 0o666)
        assert stat.S_IMODE(status.st_mode) == expected, path
        assert (status.st_uid, status.st_gid) == (found.st_uid, found.st_gid), path
    assert seen > 20
    assert verify_store(ModelStore(root)) == []


@pytest.mark.parametrize("mode", [0, 0o100, 0o300])
def test_nothing_is_made_in_a_store_that_is_closed(tmp_path: Path, mode: int) -> None:
    """Also by root, whom permissions do not stop: nobody else could read it when it is open."""
    store = new_store(tmp_path)
    publish(store, "t", 1)
    root = Path(store.url)
    before = sorted(root.rglob("*"))
    root.chmod(mode)
    try:
        with pytest.raises(PermissionError, match=str(root)):
            publish(store, "t", 2)
    finally:
        root.chmod(0o755)
    assert sorted(root.rglob("*")) == before
    assert publish(store, "t", 2) == 2
    assert all(path.stat().st_mode & 0o400 for path in root.rglob("*"))


def test_cached_blobs_and_layouts_have_the_permissions_of_their_folders(
    s3_store: Place, tmp_path: Path
) -> None:
    cache, layout = Path(s3_store.environment["MUNET_CACHE"]), tmp_path / "layout"
    for folder in (cache, layout):
        folder.mkdir()
        folder.chmod(0o775)
    before = os.umask(0o077)
    try:
        store = s3_store.open(create=True)
        digest = store.put(arrays(1))
        store.component(digest)
        LayoutPlace(layout).prepare([])
    finally:
        os.umask(before)
    for path in [*cache.rglob("*"), *layout.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o775 if path.is_dir() else 0o664), path


def test_verify_names_what_cannot_be_read_and_goes_on(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for task in ("bad", "good"):
        publish(store, task, 1)
    place = Place(store.url)
    with failing(place, "EACCES", "refs/tasks/bad"):
        found = verify_store(ModelStore(store.url))
    errors = [problem.path for problem in found if problem.severity == "error"]
    assert errors == [str(document(store, "bad"))]
    assert [task.task for task in store.served()] == ["bad", "good"]
