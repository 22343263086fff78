"""The file that makes a place a store: it names the format, its features, and this very store.

Nothing is created where a store was expected and there is no marker, and nothing is removed by code
that does not know the format and all features that the marker names.
"""

import json
import secrets
from dataclasses import dataclass
from typing import Any, cast

from model_store.errors import DamagedStore, StoreNotFound, UnknownFormat
from model_store.storage import MARKER, Storage

FORMAT = 2
FEATURES = frozenset[str]()  # that this code knows


@dataclass(frozen=True, slots=True)
class Marker:
    """What the file says."""

    format: int
    features: frozenset[str]
    id: str  # of this store: no other has it

    def require_writable(self, url: str) -> None:
        """Raises UnknownFormat where this code must not change the store."""
        if unknown := sorted(self.features - FEATURES):
            raise UnknownFormat(
                f"store {url}: it uses {', '.join(unknown)}, which this version does not know; it"
                " can be read, but not changed: use the version that made it, or a newer one"
            )


def begin(storage: Storage) -> None:
    """Mark a store that has just been prepared; of several at once, one does."""
    content = {"features": [], "format": FORMAT, "id": secrets.token_hex(16)}
    storage.create(MARKER, json.dumps(content).encode() + b"\n")
    storage.settle("")


def read(storage: Storage) -> Marker:
    """Raises StoreNotFound where there is no store, UnknownFormat for one that cannot be read."""
    current = storage.read(MARKER)
    if current is None:
        raise StoreNotFound(
            f"opening the store {storage.url}: expected a file {MARKER}, found none; give the place"
            " of a store, or create one by publishing to it"
        )
    try:
        content = cast(dict[str, Any], json.loads(current.data))
        found = Marker(int(content["format"]), frozenset(content["features"]), str(content["id"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        where = storage.where(MARKER)
        raise DamagedStore(f"{where}: not what marks a store; restore it from a copy") from None
    if found.format != FORMAT:
        raise UnknownFormat(
            f"store {storage.url}: format {found.format}, expected {FORMAT}; use the version of"
            " this program that made it, or export from there and import here"
        )
    return found
