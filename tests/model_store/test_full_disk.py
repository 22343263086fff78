"""A write that fails leaves the store valid, with all it held, and works once there is space."""

import errno
import resource
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from model_store import ModelStore
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.processes import processes
from tests.model_store.samples import new_store, publish


def publish_with_limit(root: Path, limit_bytes: int) -> int | None:
    """Publish where no file may grow beyond a limit; the error number, or None if it worked."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        publish(ModelStore(root), "t", 2)
        ModelStore(root).save_agent("a", {"n": 2, "long": "x" * 3000}, [])
    except OSError as error:
        return error.errno
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return None


def require_unharmed(store: ModelStore) -> None:
    """Version 1 and the agent's state are as they were, and no temporary file is left."""
    assert verify_store(store) == []
    store.component(store.resolve("t", 1).path.components["head"])
    assert store.load_agent("a") in ({"n": 1}, {"n": 2, "long": "x" * 3000})
    assert not list((Path(store.url) / "tmp").iterdir())


def test_any_file_may_fail_to_be_written(tmp_path: Path) -> None:
    errors: list[int | None] = []
    with ProcessPoolExecutor(1, mp_context=processes) as pool:
        # live takes 3 bytes, v<N> 72, the component 416, the config 340, the agent's state 3000
        for limit in (0, 2, 50, 300, 400, 600, 700, 1000, 2000, 10_000):
            store = new_store(tmp_path / str(limit))
            publish(store, "t", 1)
            store.save_agent("a", {"n": 1}, [])
            errors.append(pool.submit(publish_with_limit, Path(store.url), limit).result(60))
            require_unharmed(store)
            assert publish(store, "t", 3) == len(store.history("t"))
            assert store.resolve("t").version == len(store.history("t"))
    assert errors[0] == errors[-2] == errno.EFBIG
    assert errors[-1] is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_disk_that_is_full(small_disk: Path) -> None:
    store = new_store(small_disk)
    publish(store, "t", 1)
    store.save_agent("a", {"n": 1}, [])
    filler = small_disk / "filler"
    page = 4096
    failures = 0
    for free_pages in range(12):
        with filler.open("wb", buffering=0) as file:
            with pytest.raises(OSError, match="No space"):
                while True:
                    file.write(b"x" * page)
            file.truncate(max(0, file.tell() - free_pages * page))
        try:
            publish(store, "t", 100 + free_pages)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            failures += 1
        require_unharmed(store)
        filler.unlink()
        publish(store, "t", 200 + free_pages)
        assert store.resolve("t").path.components["head"]
        require_unharmed(store)
        for item in store.history("t")[1:-1]:
            store.rm("t", item.version)
        collect_garbage(store, grace_s=0)
    assert 3 <= failures < 12
