"""Where a benchmark keeps its files, and what plain files and safetensors do there.

The peers of the store: the same bytes, written and read by as little code as there can be.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
import safetensors.numpy

from loadtests.errors import OptionError

Arrays = Mapping[str, npt.NDArray[Any]]
Call = tuple[Any, str, str]  # a module, one of its functions, and what that is counted as
REQUESTS = 16  # at once, to an object store
BLOCK_BYTES = 512  # of st_blocks, not of the file system's own blocks


class Place(Protocol):
    """A directory or a prefix of a bucket; `folder` is a name directly below it."""

    about: str  # for the report

    def url(self, folder: str) -> str:
        """Where a store in this folder is."""
        ...

    def write(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files, one after the other, each durable in the end."""
        ...

    def write_tensors(self, folder: str, files: Mapping[str, Arrays]) -> None:
        """The same by safetensors."""
        ...

    def read(self, folder: str, keys: Sequence[str]) -> list[bytes]:
        """The bytes of files."""
        ...

    def read_tensors(self, folder: str, keys: Sequence[str]) -> list[dict[str, npt.NDArray[Any]]]:
        """The same by safetensors."""
        ...

    def add(self, folder: str, files: Iterable[tuple[str, bytes]]) -> None:
        """Write many small files fast; durable in the end."""
        ...

    def chill(self, folder: str, keys: Iterable[str]) -> None:
        """Let the next read of these files come from where they really lie."""
        ...

    def used_bytes(self, folder: str) -> int:
        """What a folder takes, as `du` counts."""
        ...

    def remove(self, folder: str) -> None:
        """Remove a folder and all in it."""
        ...

    def calls(self) -> Iterable[Call]:
        """What of the calls that a store makes here costs something."""
        ...


class Folder:
    """Below a directory of a local file system."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.about = f"{_file_system(root)}, below {root.parent}"

    def url(self, folder: str) -> str:
        """Where a store in this folder is."""
        return str(self._root / folder)

    def write(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files, each followed by fsync, and fsync their directory."""
        directory = self._directory(folder)
        for key, data in files.items():
            with (directory / key).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _fsync(directory)

    def write_tensors(self, folder: str, files: Mapping[str, Arrays]) -> None:
        """The same by safetensors."""
        directory = self._directory(folder)
        for key, arrays in files.items():
            safetensors.numpy.save_file(dict(arrays), directory / key)
            _fsync(directory / key)
        _fsync(directory)

    def read(self, folder: str, keys: Sequence[str]) -> list[bytes]:
        """The bytes of files, in memory."""
        return [(self._root / folder / key).read_bytes() for key in keys]

    def read_tensors(self, folder: str, keys: Sequence[str]) -> list[dict[str, npt.NDArray[Any]]]:
        """The arrays of files, in memory."""
        return [safetensors.numpy.load_file(self._root / folder / key) for key in keys]

    def add(self, folder: str, files: Iterable[tuple[str, bytes]]) -> None:
        """Write many small files fast, and make all of them durable at once."""
        for key, data in files:
            path = self._root / folder / key
            try:
                path.write_bytes(data)
            except FileNotFoundError:
                path.parent.mkdir(parents=True)
                path.write_bytes(data)
        os.sync()  # else the first fsync that is timed pays for all of them

    def chill(self, folder: str, keys: Iterable[str]) -> None:
        """Drop the pages of files; works only where nothing maps them any longer."""
        for key in keys:
            descriptor = os.open(self._root / folder / key, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # only clean pages can go
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

    def used_bytes(self, folder: str) -> int:
        """Blocks of all files and directories."""
        found = [self._root / folder, *(self._root / folder).rglob("*")]
        return sum(os.lstat(path).st_blocks for path in found) * BLOCK_BYTES

    def remove(self, folder: str) -> None:
        """Remove a folder and all in it, if it is there."""
        shutil.rmtree(self._root / folder, ignore_errors=True)

    def calls(self) -> Iterable[Call]:
        """Of the system."""
        names = dict.fromkeys(("link", "replace", "unlink"), "names")
        for name, kind in {"fsync": "fsync", **names, "open": "opened"}.items():
            yield os, name, kind
        yield io, "open", "opened"  # pathlib's

    def _directory(self, folder: str) -> Path:
        directory = self._root / folder
        directory.mkdir(exist_ok=True)
        return directory


class Bucket:
    """Below a prefix of an object store; plain files are plain requests of the same client."""

    def __init__(self, url: str, cache: Path) -> None:
        import obstore
        from obstore.store import from_url

        self._obstore, self._url, self._cache = obstore, url, cache
        self._store = from_url(url, client_options={"allow_http": True})
        self.about = f"{url}, with a cache on {_file_system(cache)}"

    def url(self, folder: str) -> str:
        """Where a store in this folder is."""
        return f"{self._url}/{folder}"

    def write(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write objects, one after the other."""
        for key, data in files.items():
            self._obstore.put(self._store, f"{folder}/{key}", data)

    def write_tensors(self, folder: str, files: Mapping[str, Arrays]) -> None:
        """The same by safetensors."""
        for key, arrays in files.items():
            self.write(folder, {key: safetensors.numpy.save(dict(arrays))})

    def read(self, folder: str, keys: Sequence[str]) -> list[bytes]:
        """The bytes of objects, in memory, many at once."""

        def one(key: str) -> bytes:
            return bytes(self._obstore.get(self._store, f"{folder}/{key}").bytes())

        with ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(one, keys))

    def read_tensors(self, folder: str, keys: Sequence[str]) -> list[dict[str, npt.NDArray[Any]]]:
        """The arrays of objects, in memory."""
        return [safetensors.numpy.load(data) for data in self.read(folder, keys)]

    def add(self, folder: str, files: Iterable[tuple[str, bytes]]) -> None:
        """Write many small objects, many at once."""

        def one(file: tuple[str, bytes]) -> None:
            self._obstore.put(self._store, f"{folder}/{file[0]}", file[1])

        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(one, files))

    def chill(self, folder: str, keys: Iterable[str]) -> None:
        """Drop the cached copies."""
        for key in keys:
            (self._cache / "munet-blobs" / key.rpartition("/")[2]).unlink(missing_ok=True)

    def used_bytes(self, folder: str) -> int:
        """Bytes of all objects; a bucket charges no blocks."""
        batches = self._obstore.list(self._store, prefix=f"{folder}/")
        return sum(meta["size"] for batch in batches for meta in batch)

    def remove(self, folder: str) -> None:
        """Remove all objects of a folder."""
        for batch in self._obstore.list(self._store, prefix=f"{folder}/"):
            self._obstore.delete(self._store, [meta["path"] for meta in batch])

    def calls(self) -> Iterable[Call]:
        """Requests."""
        kinds = {"get": "GET", "get_range": "GET", "head": "HEAD", "put": "PUT"}
        kinds |= {"delete": "DELETE", "list": "LIST", "list_with_delimiter": "LIST"}
        return [(self._obstore, name, kind) for name, kind in kinds.items()]


@contextmanager
def open_place(store: str | None, directory: Path) -> Iterator[Place]:
    """A place that is gone in the end: in a directory, or below the URL of an object store."""
    with _scratch(directory) as root:
        if store is None or "://" not in store:
            yield Folder(root)
            return
        before = os.environ.get("MUNET_CACHE")
        os.environ["MUNET_CACHE"] = str(root)  # where ModelStore keeps copies of objects
        bucket = Bucket(f"{store.rstrip('/')}/benchmark-{secrets.token_hex(6)}", root)
        try:
            yield bucket
        finally:
            bucket.remove("")
            os.environ.pop("MUNET_CACHE")
            if before is not None:
                os.environ["MUNET_CACHE"] = before


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    try:
        name = tempfile.mkdtemp(prefix="benchmark-", dir=directory)
    except OSError as error:
        raise OptionError(
            f"making a directory for the benchmark: expected a writable --dir, found {error}"
        ) from error
    try:
        yield Path(name).resolve()
    finally:
        shutil.rmtree(name, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_system(path: Path) -> str:
    """Type and device of the file system a path is on, such as `ext4 on /dev/vda`."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "a file system of unknown type"
    device = path.stat().st_dev
    for source, point, kind, *_ in reversed(mounts):
        try:
            if os.stat(point).st_dev == device:
                return f"{kind} on {source}"
        except OSError:
            continue
    return "a file system of unknown type"
