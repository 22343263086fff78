"""A store's place in the simulated world, and the clocks there."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from obstore.exceptions import BaseError, NotFoundError

from model_store.errors import StorageError
from model_store.files import leases, object_clients, objects
from model_store.files.protocol import TooLarge
from tests.model_store.simulation.actors import begin
from tests.model_store.simulation.bucket import TRIES, Bucket, Client
from tests.model_store.simulation.disk import Disk
from tests.model_store.simulation.themes import LATE_S
from tests.model_store.simulation.world import BEGIN, World

BEGAN = BEGIN - 100_000  # when the store of each history was made
URL = "s3://bucket/store"


@dataclass
class Place:
    """A store in a simulated world."""

    url: str
    disk: Disk | None  # that it is on
    # While a file holds something else, or is not there.
    damaged: Callable[[str, bytes | None], AbstractContextManager[None]]


@contextmanager
def simulated(world: World, place: str) -> Iterator[Place]:
    """A store in this world."""
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, {"MUNET_STORE_LATE_S": str(LATE_S)}))
        stack.enter_context(patch.object(leases, "LEASE_POLL_S", 15.0))
        _clocks(world, stack)
        if place == "bucket":
            bucket = Bucket(world)
            _connect(world, bucket, stack)
            bucket.objects = _first_objects(bucket)
            yield Place(URL, None, lambda key, data: _damaged_object(bucket, key, data))
            return
        folder = tempfile.mkdtemp(prefix="simulation-", dir=_memory())
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        shutil.copytree(_first_folder(), f"{folder}/store")
        disk = Disk(world, Path(folder))
        stack.enter_context(disk.installed())
        root = Path(folder) / "store"
        yield Place(str(root), disk, lambda key, data: _damaged_file(root, key, data))


@contextmanager
def _damaged_object(bucket: Bucket, key: str, data: bytes | None) -> Iterator[None]:
    before = bucket.objects.pop(key, None)
    if before and data is not None:
        bucket.objects[key] = data, before[1]
    yield
    if before:
        bucket.objects[key] = before


@contextmanager
def _damaged_file(root: Path, key: str, data: bytes | None) -> Iterator[None]:
    file, kept = root / key, root.with_name("kept")
    if not file.exists():
        yield
        return
    file.rename(kept)
    if data is not None:
        file.write_bytes(data)
    yield
    kept.replace(file)


# -- the store of each history, made once

_FIRST: dict[str, Any] = {}


def _first_objects(bucket: Bucket) -> dict[str, tuple[bytes, float]]:
    if "bucket" not in _FIRST:
        begin(URL)
        _FIRST["bucket"] = {key: (data, BEGAN) for key, (data, _) in bucket.objects.items()}
    return dict(_FIRST["bucket"])


def _first_folder() -> str:
    if "disk" not in _FIRST:
        folder = tempfile.mkdtemp(prefix="simulation-", dir=_memory())
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        begin(f"{folder}/store")
        for file in Path(folder).rglob("*"):
            os.utime(file, (BEGAN, BEGAN))
        _FIRST["disk"] = f"{folder}/store"
    return _FIRST["disk"]


def _memory() -> str | None:
    """A file system in memory, where there is one."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


# -- a bucket instead of obstore's


def _connect(world: World, bucket: Bucket, stack: ExitStack) -> None:
    def at_once(_: Any, function: Callable[[Any], Any], items: Any) -> list[Any]:
        works = [lambda item=item: function(item) for item in items]
        if world.is_calm or len(works) < 2:
            return [work() for work in works]
        return world.at_once(works)

    storage = objects.ObjectStorage
    stack.enter_context(patch.object(objects, "obstore", bucket))
    stack.enter_context(patch.object(object_clients, "from_url", _client))
    stack.enter_context(patch.object(storage, "_at_once", at_once))
    stack.enter_context(patch.object(storage, "load", _load))
    stack.enter_context(patch.object(storage, "forget", lambda s, k: False))


def _client(url: str, **options: Any) -> Client:
    retries = options["retry_config"]["max_retries"]
    return Client(TRIES if retries else 1)


def _load(self: Any, key: str, limit: int | None) -> memoryview | None:
    """As the cache does, which is no part of what is simulated."""
    try:
        data = objects.obstore.get(self._store, key).bytes()
    except NotFoundError:
        return None
    except BaseError as error:
        raise StorageError(f"reading {key}: {error}") from None
    if limit is not None and len(data) > limit:
        raise TooLarge(len(data))
    return memoryview(data)


# -- clocks


def _clocks(world: World, stack: ExitStack) -> None:
    """Those of the processes; and what is random to them follows from the history."""
    real = time.time, time.monotonic, time.sleep, time.clock_gettime, secrets.token_hex
    real_ns = time.time_ns

    def put(name: str, value: Callable[..., Any]) -> None:
        stack.enter_context(patch.object(time, name, value))

    def token(size: int | None = None) -> str:
        return f"{world.tick():0{2 * (size or 16)}x}" if world.process else real[4](size)

    put("time", lambda: world.now + world.skew_s if world.process else real[0]())
    put("time_ns", lambda: int(time.time() * 1e9) if world.process else real_ns())
    put("monotonic", lambda: world.now if world.process else real[1]())
    put("sleep", lambda s: world.sleep(s) if world.process else real[2](s))
    put("clock_gettime", lambda clock: world.now if world.process else real[3](clock))
    stack.enter_context(patch.object(secrets, "token_hex", token))
