"""How writers and a gc agree, without any lock between them, on what may be removed.

The file `gc` holds what a gc is about to remove. A gc first *condemns* what nothing reaches, looks
once more at what is reached and at the times of the condemned, and then, by one compare-and-swap,
turns what is left into *doomed* and removes that. A writer who relies on a blob strikes it off the
condemned by a compare-and-swap of its own: either that fails, or the gc's does. For a doomed blob
it waits until the gc has done, and then puts the blob anew. So nothing is removed that a writer
has secured, however slow either of them is. FORMAT.md, "Writing".
"""

import json
import re
import secrets
import time
from collections.abc import Collection, Iterable
from typing import Any, cast

from model_store.errors import StorageError
from model_store.storage import Small, Storage

KEY = "gc"
MAX_KEYS = 8000  # at once: the file has to stay small
WAIT_S = 120.0  # for a gc to remove what it has doomed
_POLL_S = 0.05
_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{64}")


class Condemned:
    """The file `gc` of a store."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    # -- for writers

    def version(self) -> object:
        """Changes whenever a gc begins, dooms, or ends."""
        current = self._storage.read(KEY)
        return current.version if current else None

    def spare(self, keys: Collection[str]) -> object:
        """Strike these blobs off the condemned, and wait for the doomed; the version then."""
        give_up = time.monotonic() + WAIT_S
        while True:
            current = self._storage.read(KEY)
            state = _parse(current)
            if not state["keys"].intersection(keys):
                return current.version if current else None
            if not state["doomed"]:
                self._write(state["keys"].difference(keys), False, current)
            elif time.monotonic() > give_up:
                raise StorageError(
                    f"{self._storage.where(KEY)}: a gc is removing blobs that are needed again and"
                    f" has not ended within {WAIT_S:.0f} s; run gc once more if it was killed"
                )
            else:
                time.sleep(_POLL_S)

    # -- for the gc, which is alone

    def begin(self) -> float:
        """Condemn nothing yet, after removing what a dead gc had doomed; the storage's time now."""
        current = self._storage.read(KEY)
        state = _parse(current)
        if state["doomed"]:
            self._storage.remove(state["keys"])
        self._require(self._write(set(), False, current))
        entry = self._storage.stat(KEY)
        return entry.modified if entry else time.time()

    def condemn(self, keys: Iterable[str]) -> None:
        """Let writers object to these."""
        self._require(self._write(set(keys), False, self._storage.read(KEY)))

    def doom(self, keys: Iterable[str]) -> set[str]:
        """Those of the condemned that no writer has objected to; they are to be removed at once."""
        wanted = set(keys)
        while True:
            current = self._storage.read(KEY)
            doomed = _parse(current)["keys"] & wanted
            if self._write(doomed, True, current):
                return doomed

    def end(self) -> None:
        """Everything doomed is removed."""
        self._require(self._write(set(), False, self._storage.read(KEY)))

    def _write(self, keys: set[str], doomed: bool, current: Small | None) -> bool:
        # The token makes every content a new one, so that no change goes unnoticed.
        state = {"doomed": doomed, "keys": sorted(keys), "token": secrets.token_hex(8)}
        return self._storage.replace(
            KEY, json.dumps(state).encode(), current.version if current else None
        )

    def _require(self, written: bool) -> None:
        if not written:
            raise StorageError(
                f"{self._storage.where(KEY)}: another gc runs; wait for it, then run gc again"
            )


def _parse(current: Small | None) -> dict[str, Any]:
    """The state; one that cannot be read condemns nothing, and is replaced by the next gc."""
    empty: dict[str, Any] = {"doomed": False, "keys": set[str]()}
    try:
        state = cast(dict[str, Any], json.loads(current.data)) if current else empty
        # Nothing else is removed, whatever the file says.
        return {
            "doomed": state["doomed"] is True,
            "keys": set(filter(_BLOB.fullmatch, state["keys"])),
        }
    except (ValueError, KeyError, TypeError):
        return empty
