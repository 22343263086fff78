"""Opens the storage that a URL names."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from model_store.errors import StoreNotFound
from model_store.files.local import LocalStorage
from model_store.files.protocol import Storage

OBJECT_SCHEMES = ("s3", "gs", "az")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")  # with or without the slashes it needs


def open_storage(url: str) -> Storage:
    """The storage at a directory, or at a file://, s3://, gs:// or az:// URL.

    Raises StoreNotFound for other URLs. What an object store needs to know besides its URL
    (endpoint, region, credentials) comes from the usual environment variables: AWS_…, GOOGLE_…,
    AZURE_….
    """
    found = _SCHEME.match(url)
    scheme = found[1] if found else ""
    if scheme in OBJECT_SCHEMES and url.startswith(f"{scheme}://"):
        # obstore takes 10 ms and 4.5 MB
        from model_store.files.objects import ObjectStorage

        return ObjectStorage.open(url)
    if scheme == "file" and url.startswith("file:///"):
        return LocalStorage(Path(unquote(urlsplit(url).path)))
    if scheme or not url:
        raise StoreNotFound(
            f"opening the store {url!r}: expected a directory, file:///DIRECTORY, s3://BUCKET/PREFIX,"
            " gs://BUCKET/PREFIX or az://CONTAINER/PREFIX; a directory with a colon in its name"
            " begins with ./ or /"
        )
    return LocalStorage(Path(url))
