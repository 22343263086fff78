"""With no byte free a store can be emptied, any number of times; then there is room again."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model_store import ModelStore
from model_store.files.ballast import SIZE
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.forks import fork, in_a_fresh_process
from tests.model_store.processes import processes
from tests.model_store.samples import new_store, publish
from tests.model_store.small_disks import fill, small_disk, small_ext4

FILE_SYSTEMS = [
    pytest.param(small_disk, id="tmpfs"),
    pytest.param(small_ext4, id="ext4", marks=pytest.mark.slow),
]
SLACK = 2**16  # a document that grows into another page takes that page for good


@pytest.fixture(params=FILE_SYSTEMS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    with request.param(tmp_path / "disk", 8 * SIZE) as directory:
        yield directory


def reserve(root: Path) -> int | None:
    """Bytes of the reserve that really lie on the disk; None where there is no such file."""
    try:
        found = (root / "reserve").stat()
    except FileNotFoundError:
        return None
    return min(found.st_size, found.st_blocks * 512)


def filled(directory: Path) -> ModelStore:
    """A store on a disk that nothing more goes on."""
    store = new_store(directory)
    for task in ("t", "u", "gone"):
        for seed in range(1, 4):
            publish(store, task, seed)
    for number in range(4):
        store.pin(f"p{number}", store.version("t", 1))
    store.rm("u", 1)
    fill(directory)
    return store


def noise(seed: int) -> np.ndarray:
    """256 KiB."""
    return np.random.default_rng(seed).integers(0, 256, 2**18).astype(np.uint8)


def require_full(store: ModelStore) -> None:
    """Nothing new goes into it."""
    with pytest.raises(OSError, match="No space"):
        store.put({"kernel": noise(77)})


def require_room(store: ModelStore) -> None:
    """What is new can be published, the reserve is whole, and nothing is wrong."""
    publish(store, "new", 99)
    assert reserve(Path(store.url)) == SIZE
    assert verify_store(store) == []
    assert not list((Path(store.url) / "tmp").iterdir())


def work(store: ModelStore, task: str, name: str) -> None:
    """What has to be possible with no byte free, and ends as it began."""
    store.rollback(task, 2)
    store.alias(task, name, 2)
    store.rollback(task, 3)
    store.remove_alias(task, name)


def test_a_full_disk_can_be_emptied(disk: Path) -> None:
    store = filled(disk)
    assert reserve(Path(store.url)) == SIZE
    for number in range(40):
        require_full(store)
        work(store, "t", "stable")
        if number % 10 == 0:
            store.unpin(f"p{number // 10}")
        collect_garbage(store, grace_s=1000)
        assert (reserve(Path(store.url)) or 0) >= SIZE - SLACK
    store.rm("t", 1)
    store.rm("gone")
    with (disk / "filler").open("ab") as filler:
        filler.truncate(filler.tell() - SLACK)
    assert collect_garbage(store, grace_s=0).removed
    require_room(store)


def test_what_a_gc_frees_is_room(disk: Path) -> None:
    store = new_store(disk)
    large = [store.put({"kernel": noise(seed)}) for seed in range(4)]
    publish(store, "t", 1)
    fill(disk)
    require_full(store)
    report = collect_garbage(store, grace_s=0)
    assert set(large) <= set(report.removed)
    require_room(store)


def test_a_gc_of_many_blobs_needs_no_more_than_the_reserve(disk: Path) -> None:
    store = new_store(disk)
    publish(store, "t", 1)
    for number in range(1500):  # as many as the disk has names for
        (Path(store.url) / f"blobs/sha256/{number:064x}").touch()
    fill(disk)
    require_full(store)
    assert len(collect_garbage(store, grace_s=0).removed) == 0  # of no bytes
    (disk / "filler").unlink()
    require_room(store)


def busy(root: Path, task: str, name: str, times: int) -> None:
    """One of several processes on a full disk."""
    store = ModelStore(root)
    for _ in range(times):
        work(store, task, name)
        require_full(store)
        collect_garbage(store, grace_s=1000)


def test_several_processes_at_once(disk: Path) -> None:
    store = filled(disk)
    with ProcessPoolExecutor(3, mp_context=processes) as pool:
        works = (("t", "stable"), ("t", "canary"), ("u", "stable"))
        for done in [pool.submit(busy, Path(store.url), *one, 5) for one in works]:
            done.result(timeout=300)
    store.rm("gone")
    (disk / "filler").unlink()
    require_room(store)


def test_new_documents_take_nothing_of_it(disk: Path) -> None:
    store = filled(disk)
    errors: list[bool] = []  # ext4 finds some blocks more when its disk is full
    for number in range(50):
        try:
            store.publish(store.resolve("t").path, live=False)  # nothing of it is new
            store.pin(f"new{number}", store.version("t", 1))
            errors.append(False)
        except OSError:
            errors.append(True)
    assert all(errors[-10:])
    # A document that had room may have found none for its copy.
    assert (reserve(Path(store.url)) or 0) >= SIZE - SLACK


# Calls that change something.
STEPS = ("write", "replace", "unlink", "ftruncate", "pwrite", "fsync")


def killed_before(step: int, root: Path, action: Callable[[ModelStore], object]) -> None:
    """Do something to the store, and die just before the given step of it."""
    store = ModelStore(root)
    left = step

    def count(frame: object, event: str, called: object) -> None:
        nonlocal left
        of_a_text = isinstance(getattr(called, "__self__", None), str)
        if event == "c_call" and getattr(called, "__name__", "") in STEPS and not of_a_text:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    action(store)
    sys.setprofile(None)


def kill_before_every_step(root: Path) -> int:
    """On the same full disk; what a kill leaves free, somebody else takes."""
    for step in range(200):
        number = 2 + step % 2
        child = fork(
            lambda step=step, number=number: killed_before(
                step, root, lambda store: store.rollback("t", number)
            )
        )
        _, status = os.waitpid(child, 0)
        fill(root.parent)
        ModelStore(root).rollback("t", number)
        fill(root.parent)
        if not status:
            return step
        assert os.WTERMSIG(status) == signal.SIGKILL
    raise AssertionError("it never came to its end")


def test_killed_before_every_step(disk: Path) -> None:
    store = filled(disk)
    assert in_a_fresh_process(kill_before_every_step, Path(store.url)) >= 20
    assert (reserve(Path(store.url)) or 0) >= SIZE / 2
    store.rm("gone")
    (disk / "filler").unlink()
    collect_garbage(store, grace_s=0)
    require_room(store)


def test_it_is_made_again(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    file = Path(store.url) / "reserve"
    assert reserve(Path(store.url)) == SIZE
    file.unlink()
    collect_garbage(store)
    assert reserve(Path(store.url)) == SIZE
    file.write_bytes(b"short")
    publish(store, "t", 1)
    assert reserve(Path(store.url)) == SIZE
    assert file.read_bytes().startswith(b"short")
    assert verify_store(store) == []


def test_what_is_there_is_not_written_again(disk: Path) -> None:
    store = new_store(disk)
    digest = store.put({"kernel": noise(1)})
    publish(store, "t", 1, labels=("a",))
    fill(disk)
    assert store.put({"kernel": noise(1)}) == digest
    store.publish(store.resolve("t").path)
    assert store.resolve("t").version == 1


def test_a_small_disk_is_not_filled_with_it(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE + SIZE // 2) as disk:
        store = new_store(disk)
        publish(store, "t", 1)
        assert reserve(Path(store.url)) is None
        collect_garbage(store, grace_s=0)
        assert verify_store(store) == []


def test_a_copy_without_it_works(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8 * SIZE) as disk:
        store = new_store(tmp_path)
        publish(store, "t", 1)
        publish(store, "t", 2)
        ignored = shutil.ignore_patterns("reserve", "lock*", "tmp", "gc")
        copied = Path(shutil.copytree(store.url, disk / "copy", ignore=ignored))
        copy = ModelStore(copied)
        copy.rollback("t", 1)
        assert reserve(copied) == SIZE


def strange(root: Path, kind: str) -> Path:
    """Something in the place of the reserve; the file that must not change."""
    other, place = root.parent / "other", root / "reserve"
    other.write_bytes(b"of somebody else")
    place.unlink()
    if kind == "link":
        place.symlink_to(other)
    elif kind == "dangling link":
        place.symlink_to(root.parent / "nothing")
    elif kind == "hard link":
        place.hardlink_to(other)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    return other


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder"])
def test_what_is_no_file_of_the_store_is_left_alone(tmp_path: Path, kind: str) -> None:
    store = new_store(tmp_path)
    other = strange(Path(store.url), kind)
    publish(store, "t", 1)
    collect_garbage(store, grace_s=0)
    assert other.read_bytes() == b"of somebody else"
    assert not (tmp_path / "nothing").exists()
    assert store.resolve("t").version == 1
