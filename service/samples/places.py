"""Where samples lie: a folder, or a prefix in an object store. Several gateways may share one.

A file appears whole or not at all. What a killed process leaves unfinished in a folder goes when
another gateway looks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from model_store.files import atomic
from model_store.files.buckets import Bucket, is_bucket

# The time comes first, so that names are in the order of age. Other files are left alone.
NAME = re.compile(r"samples-\d{8}T\d{9}Z-[0-9a-f]{12}\.parquet")
_UNFINISHED = re.compile(r"~\d+-[0-9a-f]{16}")


class Place(Protocol):
    """Files of samples by name. Calls raise OSError or StorageError."""

    def sizes(self) -> Mapping[str, int]:
        """The bytes of each file of samples."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, whole or not at all."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file, if it is still there."""
        ...


def open_place(place: str) -> Place:
    """The folder, or what the URL of an object store names. Raises StorageError."""
    if is_bucket(place):
        return BucketPlace(Bucket(place), place.rstrip("/"))
    return FolderPlace(Path(place))


class FolderPlace:
    """A folder; it is made when it is needed, for its owner alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sizes(self) -> Mapping[str, int]:
        """As of Place."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in atomic.abandoned(self._folder):
            if _UNFINISHED.fullmatch(left.name):
                left.unlink(missing_ok=True)
        found: dict[str, int] = {}
        for path in self._folder.iterdir():
            if NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):  # another gateway was faster
                    found[path.name] = path.stat().st_size
        return found

    def write(self, name: str, data: bytes) -> None:
        """As of Place; it gets the permissions of the folder."""
        with atomic.written(data, self._folder, self._folder) as temporary:
            os.replace(temporary, self._folder / name)

    def remove(self, name: str) -> None:
        """As of Place."""
        (self._folder / name).unlink(missing_ok=True)


class BucketPlace:
    """Objects below a URL."""

    def __init__(self, bucket: Bucket, url: str) -> None:
        self._bucket = bucket
        self._url = url

    def sizes(self) -> Mapping[str, int]:
        """As of Place."""
        found = self._bucket.sizes(f"{self._url}/")
        named = {url.removeprefix(f"{self._url}/"): size for url, size in found.items()}
        return {name: size for name, size in named.items() if NAME.fullmatch(name)}

    def write(self, name: str, data: bytes) -> None:
        """As of Place."""
        self._bucket.write(f"{self._url}/{name}", data)

    def remove(self, name: str) -> None:
        """As of Place."""
        self._bucket.remove(f"{self._url}/{name}")
