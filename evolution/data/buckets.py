"""Pictures and sets in object stores: s3://bucket/…, gs://… and az://…, through obstore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import from_url

from evolution.data.errors import DataError
from evolution.data.rows import MAX_FILE_BYTES

SCHEMES = ("s3://", "gs://", "az://")


def is_url(text: str) -> bool:
    """Whether it names something in an object store."""
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
    """The objects below a URL. Where the object store does not answer, calls raise DataError."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._store: Any = from_url(self.url, client_options={"allow_http": True})
        except (BaseError, ValueError, TypeError) as error:
            raise self._failed("opening it", error) from None

    def read(self, key: str, most: int) -> bytes | None:
        """An object's bytes, None if there is none; ValueError if it has more than `most`."""
        try:
            found = obstore.get(self._store, key)
            if found.meta["size"] > most:
                raise ValueError(f"{found.meta['size'] >> 20} MiB, expected at most {most >> 20}")
            return bytes(found.bytes())
        except (NotFoundError, FileNotFoundError):
            return None
        except BaseError as error:
            raise self._failed(f"reading {key}", error) from None

    def open(self, key: str) -> Any:
        """A file that reads parts of an object. Raises FileNotFoundError."""
        try:
            return obstore.open_reader(self._store, key)
        except NotFoundError:
            raise FileNotFoundError(f"{self.url}/{key}") from None
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
        """Writes an object; False if there is one of this name."""
        try:
            obstore.put(self._store, key, source, mode="create")
        except AlreadyExistsError:
            return False
        except BaseError as error:
            raise self._failed(f"writing {key}", error) from None
        return True

    def replace(self, key: str, data: bytes) -> None:
        """Writes an object, whatever was there."""
        try:
            obstore.put(self._store, key, data)
        except BaseError as error:
            raise self._failed(f"writing {key}", error) from None

    def delete(self, key: str) -> None:
        """Deletes an object, if it is there."""
        try:
            obstore.delete(self._store, key)
        except NotFoundError:
            return
        except BaseError as error:
            raise self._failed(f"removing {key}", error) from None

    def clear(self, prefix: str) -> None:
        """Deletes all objects below a prefix, which ends in a slash."""
        try:
            for page in obstore.list(self._store, prefix):
                obstore.delete(self._store, [entry["path"] for entry in page])
        except BaseError as error:
            raise self._failed(f"removing {prefix}", error) from None

    def _failed(self, doing: str, error: Exception) -> DataError:
        told = " ".join(str(error).split("\n\nDebug source")[0].split())
        return DataError(f"{self.url}: {doing}: {told:.300}\ncheck the URL and its credentials")
