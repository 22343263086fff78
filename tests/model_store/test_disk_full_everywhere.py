"""The n-th change to the disk fails for want of space, for every n: the store stays valid.

Each operation is tried on a store of its own for n = 1, 6, 11 … until it gets through; with the
slow tests for n = 1, 2, 3 …. What was acknowledged before is there afterwards, `verify` finds no
error, and the operation then works.
"""

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from model_store import ModelStore
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.samples import arrays, new_store, path, publish

# What changes a directory or makes bytes durable, and takes a path or a descriptor first.
CHANGES = (
    "link", "rename", "replace", "mkdir", "unlink", "remove", "rmdir",
    "symlink", "truncate", "ftruncate", "write", "pwrite", "utime", "posix_fallocate",
)  # fmt: skip
Operation = Callable[[ModelStore], Any]


class FullDisk:
    """Counts the changes below a folder, and lets one of them fail."""

    def __init__(self, root: Path, fails: int) -> None:
        self._root = str(root)
        self._fails = fails
        self.count = 0

    def change(self, target: object) -> None:
        """Note a change to a path, or to what a descriptor is open on."""
        name = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(target)
        if name.removesuffix(" (deleted)").startswith(self._root):
            self.count += 1
            if self.count == self._fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


def _failing_file(disk: FullDisk, opened: Any) -> Any:
    """A file whose write and flush count as changes."""

    class File:
        def __getattr__(self, name: str) -> Any:
            return getattr(opened, name)

        def __enter__(self) -> Any:
            opened.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            opened.__exit__(*error)

        def write(self, data: Any) -> int:
            disk.change(opened.fileno())
            return opened.write(data)

        def flush(self) -> None:
            disk.change(opened.fileno())
            opened.flush()

    return File()


@contextmanager
def full_disk(root: Path, fails: int = 0) -> Iterator[FullDisk]:
    """A disk whose `fails`-th change does not happen; 0 for none."""
    disk = FullDisk(root, fails)
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, _counted(disk, getattr(os, name)))
        for name in ("fsync", "fdatasync"):  # the disk's own work changes no outcome here
            patch.setattr(os, name, disk.change)
        real_open, real_os_open = io.open, os.open

        def counted_open(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            writes = set(mode) & set("wxa+")
            if writes and not isinstance(file, int):
                disk.change(file)  # a new name in a directory
            opened = real_open(file, mode, *rest, **more)
            return _failing_file(disk, opened) if writes else opened

        def counted_os_open(file: Any, flags: int, *rest: Any, **more: Any) -> int:
            if flags & os.O_CREAT and not os.path.exists(file):
                disk.change(file)
            return real_os_open(file, flags, *rest, **more)

        patch.setattr(io, "open", counted_open)  # pathlib's
        patch.setattr(builtins, "open", counted_open)
        patch.setattr(os, "open", counted_os_open)
        yield disk


def _counted(disk: FullDisk, real: Callable[..., Any]) -> Callable[..., Any]:
    def changes(target: Any, *rest: Any, **more: Any) -> Any:
        disk.change(target)
        return real(target, *rest, **more)

    return changes


def filled(directory: Path) -> ModelStore:
    """A store with something to lose: two versions, another task, an agent, garbage."""
    store = new_store(directory)
    publish(store, "t", 1)
    publish(store, "t", 2)
    publish(store, "other", 3)
    store.save_agent("a", {"n": 1}, [store.put(arrays(4))])
    store.put(arrays(5))
    return store


def publish_new(store: ModelStore) -> None:
    publish(store, "t", 9)


def publish_first_of_a_task(store: ModelStore) -> None:
    publish(store, "new/task", 9)


def publish_not_live(store: ModelStore) -> None:
    components = dict(store.resolve("t", 1).path.components)
    store.publish(path("t", components, labels=("a",)), live=False)


def save_new_agent(store: ModelStore) -> None:
    store.save_agent("b", {"n": 1}, [])


def hold_agent(store: ModelStore) -> None:
    with store.hold("a") as held:
        held.check()


OPERATIONS: dict[str, Operation] = {
    "create": lambda store: new_store(Path(store.url).parent / "another"),
    "put": lambda store: store.put(arrays(9)),
    "put of what is there": lambda store: store.put(arrays(1)),
    "publish": publish_new,
    "publish of a new task": publish_first_of_a_task,
    "publish without live": publish_not_live,
    "rollback": lambda store: store.rollback("t", 1),
    "promote": lambda store: store.promote("t", 1, lambda live: True),
    "rm of a version": lambda store: store.rm("t", 1) if 1 in versions(store) else None,
    "rm of a task": lambda store: store.rm("other") if "other" in store.tasks() else None,
    "save_agent": lambda store: store.save_agent("a", {"n": 2}, []),
    "save_agent of a new one": save_new_agent,
    "hold": hold_agent,
    "gc": lambda store: collect_garbage(store, grace_s=0),
}


# A publish that failed may have left a version that is not live, as one that was killed does.
LIVE_AFTER = {"publish": {2, 3, 4}, "rollback": {1, 2}, "promote": {1, 2}}


def versions(store: ModelStore) -> list[int]:
    return [item.version for item in store.history("t")]


def require_kept(store: ModelStore, operation: str) -> None:
    """All that was acknowledged before the operation is there, unless the operation removes it."""
    assert [problem for problem in verify_store(store) if problem.severity == "error"] == []
    kept = {"t": {1, 2}, "other": {1}}
    if operation.startswith("rm"):  # what it removes may be there or not
        kept = {"t": {2}, "other": {1}} if "version" in operation else {"t": {1, 2}}
    for task, numbers in kept.items():
        assert numbers <= {item.version for item in store.history(task)}
        for item in store.history(task):
            for digest in item.path.components.values():
                store.component(digest)
    assert store.resolve("t").version in LIVE_AFTER.get(operation, {2})
    assert store.load_agent("a") in ({"n": 1}, {"n": 2} if operation == "save_agent" else None)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store to be copied for each try."""
    return Path(filled(tmp_path_factory.mktemp("full")).url)


def tries(
    original: Path, run: Operation, within: Path, every: int
) -> Iterator[tuple[ModelStore, bool]]:
    """A copy of the store after each try, and whether it was acknowledged; ends with one that
    no change failed in. One change in `every` fails, the first among them.
    """
    for fails in range(1, 300, every):
        root = within / str(fails) / "store"
        shutil.copytree(original, root)
        acknowledged = False
        with full_disk(root.parent, fails) as disk:
            try:
                run(ModelStore(root))
                acknowledged = True
            except OSError as error:
                assert error.errno == errno.ENOSPC
        yield ModelStore(root), acknowledged
        if disk.count < fails:
            assert fails > 1 and acknowledged
            return
    pytest.fail("it never got through")


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_change_may_fail(original: Path, tmp_path: Path, operation: str, every: int) -> None:
    run = OPERATIONS[operation]
    for store, _ in tries(original, run, tmp_path, every):
        require_kept(store, operation)
        with full_disk(tmp_path):  # there is space again
            run(ModelStore(store.url))
            collect_garbage(store, grace_s=0)
        require_kept(ModelStore(store.url), operation)
        assert not list((Path(store.url) / "tmp").iterdir())


def test_what_was_acknowledged_is_done(original: Path, tmp_path: Path) -> None:
    acknowledged_all = [
        store.resolve("t").version == 3
        for store, acknowledged in tries(original, publish_new, tmp_path, every=1)
        if acknowledged
    ]
    assert acknowledged_all and all(acknowledged_all)
