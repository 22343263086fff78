"""How writers and a gc agree, without a lock between them, on which blobs may be removed.

The file `gc` holds what a gc is about to remove. First the gc *proposes* blobs that nothing refers
to. Then it looks once more at what the documents refer to and claim, and at the times of the blobs.
Then one compare-and-swap makes what is left *doomed*, and the gc removes that. A writer that relies
on a blob first makes that visible (by a claim in a document, or a fresh time), and then reads the
file. It takes a proposed blob off the list by a compare-and-swap, so that either its swap fails or
the gc's does. For a doomed blob it waits until the gc has ended, or died.

A deletion that was not answered may be executed late. So the blobs of such deletions stay doomed,
and the lease of the gc is not given back: it runs out when none of them can be executed any more.
"""

import re
import secrets
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from model_store.canonical_json import seal, unseal
from model_store.errors import DamagedStore, LeaseLost
from model_store.files.protocol import Lease, Read, Small, Storage

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
    documents: int = 0  # how many there were when a gc counted them; none is ever removed


class Handshake:
    """The file `gc` of a store."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._run = secrets.token_hex(8)
        self._documents = 0  # as in _State

    def make(self) -> None:
        """In a new store, let the file say that nothing is being removed."""
        if self._storage.read(KEY) is None:
            self._write(_State(self._run), None)

    # -- for writers

    def spare(self, keys: Collection[str]) -> bool:
        """Let no gc remove these blobs, which a claim or a fresh time already speaks for.

        Whether nothing had to be waited for: where a gc was removing one of them, or may have been,
        this returns False when that gc has ended, and the caller has to look whether they are still
        there.
        """
        waited = False
        while True:
            current = self._storage.read(KEY)
            state = _parse(current)
            if state and not state.keys.intersection(keys):
                return not waited
            if state and not state.doomed:
                self._write(replace(state, keys=state.keys.difference(keys)), current)
                continue
            waited = True
            with self._storage.alone(KEY) as lease, suppress(LeaseLost):
                self.begin(lease)  # the gc has ended, or died

    def is_idle(self) -> bool:
        """Whether no gc is about to remove anything, nor one that died.

        Then each that will be looks later at what documents refer to and claim.
        """
        state = _parse(self._storage.read(KEY))
        return state is not None and not state.keys

    def said(self) -> tuple[int, frozenset[str]]:
        """How many documents a gc has counted, and the blobs that one is removing, or was when it
        died.
        """
        state = _parse(self._storage.read_many([KEY])[KEY]) or _State()
        return state.documents, state.keys if state.doomed else frozenset()

    # -- for the gc, which is alone

    def begin(self, lease: Lease) -> None:
        """Propose nothing yet. Raises LeaseLost.

        What a dead gc had doomed is not removed: with the right to be alone came that none of its
        deletions can be executed any more, and in a copy of a store that was made file by file, the
        documents may be newer than its list. Only what was read while the lease was held is
        replaced: what another gc has doomed that took over meanwhile stays doomed.
        """
        while True:
            current = self._storage.read(KEY)
            lease.renew()
            found = _parse(current)
            self._documents = found.documents if found else 0
            if self._write(_State(self._run, documents=self._documents), current):
                return

    def began(self) -> float:
        """When this gc began, by the clock that the times of blobs are of. Raises DamagedStore."""
        entry = self._storage.stat(KEY)
        if entry is None:  # this machine's clock says nothing: it may be an hour ahead
            raise DamagedStore(
                f"{self._storage.where(KEY)}: expected the file that was just written, found none;"
                " run gc again"
            )
        return entry.modified

    def count(self, documents: int, *, fewer: bool) -> None:
        """Note how many documents there are, for the gcs to come.

        Raises DamagedStore where an earlier gc found more, unless there may be `fewer`.
        """
        if documents < self._documents and not fewer:
            raise DamagedStore(
                f"{self._storage.url}: {lacking(documents, self._documents)}; restore them, or run"
                " gc --fewer-documents to forget them and remove what only they needed"
            )
        self._documents = documents

    def propose(self, keys: Iterable[str]) -> None:
        """Let writers object to these. Raises LeaseLost if another gc has begun."""
        self._rewrite(lambda state: replace(state, doomed=False, keys=frozenset(keys)))

    def doom(self, keys: Iterable[str]) -> frozenset[str]:
        """Those of the proposed that no writer has objected to; they are to be removed at once.

        Raises LeaseLost if another gc has begun.
        """
        wanted = frozenset(keys)
        return self._rewrite(lambda s: replace(s, doomed=True, keys=s.keys & wanted)).keys

    def remove(self, doomed: Iterable[str], lease: Lease) -> list[OSError]:
        """Remove the doomed; what the system said of files that it does not let go, which stay.

        Raises LeaseLost, or StorageError for deletions that nobody answered: they stay doomed, and
        the lease has to be kept until they cannot be executed any more.
        """
        keys = sorted(doomed)
        refusals: list[OSError] = []
        for start in range(0, len(keys), REMOVED_AT_ONCE):
            lease.renew()
            try:
                self._storage.remove(keys[start : start + REMOVED_AT_ONCE], lease)
            except OSError as error:
                refusals.append(error)
        return refusals

    def end(self) -> None:
        """Everything doomed is removed. Raises LeaseLost if another gc has begun."""
        self._rewrite(lambda s: replace(s, doomed=False, keys=frozenset()))

    def _rewrite(self, change: Callable[[_State], _State]) -> _State:
        while True:
            current = self._storage.read(KEY)
            state = _parse(current)
            if state is None or state.run != self._run:
                raise LeaseLost(
                    f"{self._storage.where(KEY)}: another gc took over, as this one was silent for"
                    " too long; run gc again"
                )
            new = replace(change(state), documents=self._documents)
            if self._write(new, current):
                return new

    def _write(self, state: _State, current: Small | None) -> bool:
        # The token makes every content another one, so that no change goes unnoticed.
        document = {
            "documents": state.documents,
            "doomed": state.doomed,
            "keys": sorted(state.keys),
            "run": state.run,
            "token": secrets.token_hex(8),
        }
        return self._storage.replace(KEY, seal(KEY, document), current.version if current else None)


def lacking(found: int, expected: int) -> str:
    """That a store has lost documents together with their copies."""
    return f"expected at least {expected} documents, as an earlier gc found, found {found}"


def _parse(current: Read) -> _State | None:
    """The state. None where it cannot be read: it may say anything, until somebody is alone and
    replaces it.
    """
    try:
        state = unseal(KEY, getattr(current, "data", b""))
        # The file can name nothing else.
        keys = frozenset(filter(_BLOB.fullmatch, state["keys"]))
        documents = state.get("documents", 0)
        known = documents if type(documents) is int else 0
        return _State(str(state["run"]), state["doomed"] is True, keys, known)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
