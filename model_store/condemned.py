"""How writers and a gc agree, without a lock between them, on what may be removed.

The file `gc` holds what a gc is about to remove. A gc first *condemns* what nothing reaches, looks
once more at what is reached and at the times of the condemned, and then, by one compare-and-swap,
turns what is left into *doomed* and removes that. A writer who relies on a blob strikes it off the
condemned by a compare-and-swap of its own: either that fails, or the gc's does. For a doomed blob
it waits until the gc has done, and then puts the blob anew. So nothing is removed that a writer
has secured, however slow the writer is. FORMAT.md, "Writing", has the one bound there is on a gc.
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, cast

from model_store.errors import LeaseLost
from model_store.storage import Lease, Small, Storage

KEY = "gc"
MAX_KEYS = 8000  # at once: the file has to stay small
REMOVED_AT_ONCE = 16
_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _State:
    """What the file says."""

    run: str = ""  # which gc wrote it
    doomed: bool = False
    keys: frozenset[str] = frozenset()


class Condemned:
    """The file `gc` of a store."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._run = secrets.token_hex(8)

    # -- for writers

    def version(self) -> object:
        """Changes whenever a gc begins, dooms, or ends."""
        current = self._storage.read(KEY)
        return current.version if current else None

    def spare(self, keys: Collection[str]) -> object:
        """Strike these blobs off the condemned, and wait for the doomed; the version then."""
        while True:
            current = self._storage.read(KEY)
            state = _parse(current)
            if not state.keys.intersection(keys):
                return current.version if current else None
            if not state.doomed:
                self._write(_State(state.run, False, state.keys.difference(keys)), current)
            else:
                # Until the gc has done, or has died: then this is the one to finish its work.
                with self._storage.alone(KEY) as lease:
                    self._clear(lease)

    # -- for the gc, which is alone

    def begin(self, lease: Lease) -> float:
        """Condemn nothing yet, after removing what a dead gc had doomed; the storage's time now."""
        self._clear(lease)
        entry = self._storage.stat(KEY)
        return entry.modified if entry else time.time()

    def _clear(self, lease: Lease) -> None:
        while True:
            current = self._storage.read(KEY)
            state = _parse(current)
            if state.doomed:
                self.remove(state.keys, lease)
            if self._write(_State(self._run), current):
                return

    def condemn(self, keys: Iterable[str]) -> None:
        """Let writers object to these. Raises LeaseLost if another gc has begun."""
        self._rewrite(lambda _: _State(self._run, False, frozenset(keys)))

    def doom(self, keys: Iterable[str]) -> frozenset[str]:
        """Those of the condemned that no writer has objected to; they are to be removed at once.

        Raises LeaseLost if another gc has begun.
        """
        wanted = frozenset(keys)
        return self._rewrite(lambda state: _State(self._run, True, state.keys & wanted)).keys

    def remove(self, doomed: Iterable[str], lease: Lease) -> None:
        """Remove the doomed, a few for each look at the lease. Raises LeaseLost."""
        keys = sorted(doomed)
        for start in range(0, len(keys), REMOVED_AT_ONCE):
            lease.renew()
            self._storage.remove(keys[start : start + REMOVED_AT_ONCE])

    def end(self) -> None:
        """Everything doomed is removed. Raises LeaseLost if another gc has begun."""
        self._rewrite(lambda _: _State(self._run))

    def _rewrite(self, change: Callable[[_State], _State]) -> _State:
        while True:
            current = self._storage.read(KEY)
            state = _parse(current)
            if state.run != self._run:
                raise LeaseLost(
                    f"{self._storage.where(KEY)}: another gc took over, as this one was silent for"
                    " too long; run gc again"
                )
            new = change(state)
            if self._write(new, current):
                return new

    def _write(self, state: _State, current: Small | None) -> bool:
        # The token makes every content a new one, so that no change goes unnoticed.
        document = {
            "doomed": state.doomed,
            "keys": sorted(state.keys),
            "run": state.run,
            "token": secrets.token_hex(8),
        }
        return self._storage.replace(
            KEY, json.dumps(document).encode(), current.version if current else None
        )


def _parse(current: Small | None) -> _State:
    """The state; one that cannot be read condemns nothing, and is replaced by the next gc."""
    if current is None:
        return _State()
    try:
        state = cast(dict[str, Any], json.loads(current.data))
        # Nothing else is removed, whatever the file says.
        keys = frozenset(filter(_BLOB.fullmatch, state["keys"]))
        return _State(str(state["run"]), state["doomed"] is True, keys)
    except (ValueError, KeyError, TypeError, RecursionError):
        return _State()
