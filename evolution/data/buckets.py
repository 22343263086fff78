"""Pictures and sets in object stores: s3://bucket/…, gs://… and az://…, through obstore."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import from_url

from evolution.data.errors import DataError
from evolution.data.rows import MAX_FILE_BYTES

SCHEMES = ("s3://", "gs://", "az://")


def is_url(text: str) -> bool:
    """Whether a place is in an object store."""
    return text.startswith(SCHEMES)


class Buckets:
    """Reads single objects by their URLs."""

    def __init__(self) -> None:
        self._opened: dict[str, Bucket] = {}

    def read(self, url: str) -> bytes:
        """An object's bytes; ValueError if it is not there or too large. Raises DataError."""
        scheme, _, rest = url.partition("://")
        host, _, key = rest.partition("/")
        root = f"{scheme}://{host}"
        if root not in self._opened:
            self._opened[root] = Bucket(root)
        data = self._opened[root].read(key, MAX_FILE_BYTES)
        if data is None:
            raise ValueError("no such object")
        return data


class Bucket:
    """The objects below a URL. Calls raise DataError if the object store does not answer."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._store: Any = from_url(self.url, client_options={"allow_http": True})
        except (BaseError, ValueError, TypeError) as error:
            raise self._failed("opening it", error) from None

    def read(self, key: str, most: int) -> bytes | None:
        """An object's bytes; None if it is missing; ValueError if it has more than `most`."""
        try:
            found = obstore.get(self._store, key)
            if found.meta["size"] > most:
                raise ValueError(f"{found.meta['size'] >> 20} MiB, expected at most {most >> 20}")
            return bytes(found.bytes())
        except (NotFoundError, FileNotFoundError):
            return None
        except BaseError as error:
            raise self._failed(f"reading {key}", error) from None

    def open(self, key: str) -> io.RawIOBase:
        """A file that reads parts of an object. Raises FileNotFoundError."""
        try:
            size = obstore.head(self._store, key)["size"]
        except (NotFoundError, FileNotFoundError):
            raise FileNotFoundError(f"{self.url}/{key}") from None
        except BaseError as error:
            raise self._failed(f"reading {key}", error) from None
        return _Object(self, key, size)

    def part(self, key: str, start: int, length: int) -> bytes:
        """Bytes of an object from `start` on."""
        try:
            return bytes(obstore.get_range(self._store, key, start=start, length=length))
        except BaseError as error:
            raise self._failed(f"reading {key}", error) from None

    def folders(self) -> list[str]:
        """The names before the first slash."""
        try:
            found = obstore.list_with_delimiter(self._store)
        except BaseError as error:
            raise self._failed("listing it", error) from None
        return [prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"]]

    def create(self, key: str, source: Path | bytes) -> bool:
        """Writes an object; False if the name is in use."""
        try:
            obstore.put(self._store, key, source, mode="create")
        except AlreadyExistsError:
            return False
        except BaseError as error:
            raise self._failed(f"writing {key}", error) from None
        return True

    def replace(self, key: str, data: bytes) -> None:
        """Writes an object, or replaces it."""
        try:
            obstore.put(self._store, key, data)
        except BaseError as error:
            raise self._failed(f"writing {key}", error) from None

    def keys(self, prefix: str) -> list[str]:
        """The objects below a prefix, which ends in a slash."""
        try:
            return [entry["path"] for page in obstore.list(self._store, prefix) for entry in page]
        except BaseError as error:
            raise self._failed(f"listing {prefix}", error) from None

    def delete(self, keys: list[str]) -> None:
        """Deletes objects in this order; missing ones are skipped."""
        for key in keys:
            try:
                obstore.delete(self._store, key)
            except (NotFoundError, FileNotFoundError):
                continue
            except BaseError as error:
                raise self._failed(f"removing {key}", error) from None

    def _failed(self, doing: str, error: Exception) -> DataError:
        told = " ".join(str(error).split("\n\nDebug source")[0].split())
        return DataError(f"{self.url}: {doing}: {told:.300}\ncheck the URL and its credentials")


class _Object(io.RawIOBase):
    """An object as a file: each read is one request, and nothing is kept."""

    def __init__(self, bucket: Bucket, key: str, size: int) -> None:
        super().__init__()
        self._bucket, self._key, self._size, self._at = bucket, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        length = max(0, min(len(buffer), self._size - self._at))
        if length:
            buffer[:length] = self._bucket.part(self._key, self._at, length)
        self._at += length
        return length
