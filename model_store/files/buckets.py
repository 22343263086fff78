"""Objects in a bucket that are no store's: lists them and reads them, as somebody has put them."""

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
        self._client: Any = Clients.of(self.url).bulk

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
