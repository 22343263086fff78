"""Objects in a bucket that are no store's: lists, reads, writes and removes them."""

from collections.abc import Iterator
from typing import Any

import obstore
from obstore.exceptions import BaseError, NotFoundError

from model_store.errors import StorageError
from model_store.files.object_clients import Clients, told
from model_store.files.opening import OBJECT_SCHEMES


def is_bucket(url: str) -> bool:
    """Whether this is a URL in an object store."""
    return url.partition("://")[0] in OBJECT_SCHEMES and "://" in url


class Bucket:
    """A bucket by the beginning of its URLs, as s3://bucket. Calls raise StorageError."""

    def __init__(self, url: str) -> None:
        """`url` is that of any object in it."""
        scheme, _, rest = url.partition("://")
        self.url = f"{scheme}://{rest.partition('/')[0]}"
        clients = Clients.of(self.url)
        self._client: Any = clients.bulk
        self._small: Any = clients.small  # where an answer must not be waited for long

    def key(self, url: str) -> str:
        """Of an object, by its URL."""
        return url.removeprefix(self.url).lstrip("/")

    def urls(self, prefix: str) -> Iterator[str]:
        """The objects below a prefix, which is a whole part of the path, in no order."""
        try:
            for page in obstore.list(self._client, prefix=self.key(prefix) or None):
                for entry in page:
                    yield f"{self.url}/{entry['path']}"
        except BaseError as error:
            raise StorageError(f"listing {prefix}: {told(error)}") from None

    def sizes(self, prefix: str) -> dict[str, int]:
        """The objects below a prefix, as `urls`, and the bytes of each."""
        try:
            return {
                f"{self.url}/{entry['path']}": entry["size"]
                for page in obstore.list(self._small, prefix=self.key(prefix) or None)
                for entry in page
            }
        except BaseError as error:
            raise StorageError(f"listing {prefix}: {told(error)}") from None

    def write(self, url: str, data: bytes) -> None:
        """Writes an object whole, also in the place of another."""
        try:
            obstore.put(self._small, self.key(url), data, use_multipart=False)
        except (BaseError, FileNotFoundError) as error:
            raise StorageError(f"writing {url}: {told(error)}") from None

    def remove(self, url: str) -> None:
        """Removes an object, if it is there."""
        try:
            obstore.delete(self._small, self.key(url))
        except (NotFoundError, FileNotFoundError):
            return
        except BaseError as error:
            raise StorageError(f"removing {url}: {told(error)}") from None

    def read(self, url: str, most: int) -> bytes | None:
        """An object; None if there is none. Raises ValueError if it has more than `most` bytes."""
        try:
            found = obstore.get(self._client, self.key(url))
            if found.meta["size"] > most:
                raise ValueError(f"{found.meta['size'] >> 20} MiB, at most {most >> 20} are read")
            return bytes(found.bytes())
        except (NotFoundError, FileNotFoundError):
            return None
        except BaseError as error:
            raise StorageError(f"reading {url}: {told(error)}") from None
