"""The file that makes a place a store: it names the format, its features, and this very store.

Nothing is created where a store was expected and there is no marker, and nothing is removed by code
that does not know the format and all features that the marker names.
"""

import hashlib
import json
import re
import secrets
from dataclasses import dataclass, replace
from typing import Any, cast

from model_store.errors import DamagedStore, StoreNotFound, UnknownFormat
from model_store.files.gc_handshake import Handshake
from model_store.files.protocol import MARKER, Storage

FORMAT = 2
FEATURES = frozenset[str]()  # that this code knows
_ID = re.compile(r"([0-9a-f]{24})-([0-9a-f]{12})")


@dataclass(frozen=True, slots=True)
class Marker:
    """What the file says."""

    format: int
    features: frozenset[str]
    id: str  # of this store: no other has it, but the copies of this one
    incomplete: bool = False  # a copy to which not everything has been copied yet

    @property
    def has_sound_id(self) -> bool:
        """Whether the id is one that a store was given."""
        match = _ID.fullmatch(self.id)
        return match is not None and match[2] == _check(match[1])

    def require_writable(self, url: str) -> None:
        """Raises UnknownFormat where this code must not change the store."""
        if unknown := sorted(self.features - FEATURES):
            raise UnknownFormat(
                f"store {url}: it uses {', '.join(unknown)}, which this version does not know; it"
                " can be read, but not changed: use the version that made it, or a newer one"
            )


def begin(storage: Storage, original: Marker | None = None) -> None:
    """Mark a store that has just been prepared; of several at once, one does.

    As a copy of another it is opened by nobody before `complete`.
    """
    if original is None:
        digits = secrets.token_hex(12)
        found = Marker(FORMAT, frozenset(), f"{digits}-{_check(digits)}")
    else:
        found = replace(original, incomplete=True)
    storage.create(MARKER, _to_bytes(found))
    Handshake(storage).make()
    storage.settle("")


def complete(storage: Storage) -> None:
    """Everything has been copied to it: from now on this is a store."""
    current = storage.read(MARKER)
    found = look(storage)
    if current and found and found.incomplete:
        storage.replace(MARKER, _to_bytes(replace(found, incomplete=False)), current.version)


def read(storage: Storage) -> Marker:
    """Raises StoreNotFound where there is no store, UnknownFormat for one that cannot be read."""
    found = look(storage)
    if found is None:
        raise StoreNotFound(
            f"opening the store {storage.url}: expected a file {MARKER}, found none; give the place"
            " of a store, or create one by publishing to it"
        )
    if found.incomplete:
        raise StoreNotFound(
            f"opening the store {storage.url}: a backup is being copied to it, or was"
            " interrupted; wait for its end, or run it again"
        )
    return found


def look(storage: Storage) -> Marker | None:
    """As `read`, also of a copy that is not whole yet; None where there is no marker."""
    current = storage.read(MARKER)
    if current is None:
        return None
    try:
        content = cast(dict[str, Any], json.loads(current.data))
        found = Marker(
            int(content["format"]),
            frozenset(content["features"]),
            str(content["id"]),
            bool(content.get("incomplete")),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        where = storage.where(MARKER)
        raise DamagedStore(f"{where}: not what marks a store; restore it from a copy") from None
    if found.format != FORMAT:
        raise UnknownFormat(
            f"store {storage.url}: format {found.format}, expected {FORMAT}; use the version of"
            " this program that made it, or export from there and import here"
        )
    return found


def _check(digits: str) -> str:
    """What follows on the random digits of an id."""
    return hashlib.sha256(digits.encode()).hexdigest()[:12]


def _to_bytes(marker: Marker) -> bytes:
    content: dict[str, Any] = {"features": sorted(marker.features), "format": marker.format}
    content["id"] = marker.id
    if marker.incomplete:
        content["incomplete"] = True
    return json.dumps(content).encode() + b"\n"
