"""A second copy of a whole store, brought up to date by each run: for the day the first is lost.

The copy is the same store at another place: it can be served and verified, and restoring is a
backup of it to an empty place. The source is only read, and others may change it meanwhile. All
that was acknowledged before a run began is in the copy afterwards, whole: each document is read,
then the blobs that it needs are copied, then it is written. If a blob has gone by then, and with it
what referred to it, the document is read again.

While a run lasts no gc may run at the destination, so a blob that was seen there stays. A document
there that the source knows nothing of is never replaced: one of the two was put back, or written to
by somebody else. It is named in the report, as is what cannot be read in the source.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from model_store import watching
from model_store.blobs import Blobs, Digest
from model_store.errors import CorruptRef, ExchangeError
from model_store.exchange.transfer import in_parallel
from model_store.files import format_marker
from model_store.files.format_marker import Marker
from model_store.files.gc_handshake import KEY as GC
from model_store.files.gc_handshake import Handshake
from model_store.files.leases import Held, renewed
from model_store.files.opening import open_storage
from model_store.files.protocol import Lease, Read, Small, Storage
from model_store.names import AGENTS, PINS, SIGNATURES, TASKS, copy_key, name_in
from model_store.refs import TOKENS, Document, Refs
from model_store.upkeep.blob_copy import UNREADABLE, BlobCopy

logger = logging.getLogger(__name__)

AT_ONCE = 500  # documents
READS = 20  # of agents' documents at most, until two are alike
# What an agent says that it has published is there then, as is a pin of what was removed meanwhile.
# Signatures come first, for a version that is removed meanwhile, and last, for one that is added.
ORDER = (SIGNATURES, AGENTS, TASKS, PINS, SIGNATURES)
# What a run may leave that was killed before the place became a store.
LEFT = re.compile(r"lock(?:\.gc)?|tmp/~[^/]+|touched/probe-[^/]+")

Reference = tuple[object, Digest]  # a manifest, and what tells this mention of it from a later one


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a run did."""

    made: bool  # whether there was nothing at the destination before
    documents: int  # of the source
    copied_documents: int
    copied_blobs: int
    copied_bytes: int
    problems: tuple[str, ...]  # one for each document that is not in the copy as it should be


def backup(source: str, destination: str) -> BackupReport:
    """Let the store at `destination` hold, whole, all that the one at `source` holds now.

    `destination` is a copy made by an earlier run, or an empty place. Raises ExchangeError for any
    other place, StoreNotFound, UnknownFormat, and what the storages raise; what has been copied
    by then is not copied again.
    """
    from_, to = open_storage(source), open_storage(destination)
    found = format_marker.read(from_)
    found.require_writable(from_.url)  # it may keep more than this code would copy
    _require_apart(from_, to)
    made = _begin(found, to)
    with to.alone("gc") as lease:
        Handshake(to).begin(lease)
        _require_another(from_, to)
        with renewed(lease) as held:
            run = _Run(from_, to, lease, held)
            for kind in ORDER:
                run.copy(kind)
            format_marker.complete(to)
    logger.info("event=backup documents=%d blobs=%d", len(run.copied), run.blobs.copied)
    return BackupReport(
        made,
        len(run.documents),
        len(run.copied),
        run.blobs.copied,
        run.blobs.copied_bytes,
        tuple(run.problems.values()),
    )


def _require_apart(source: Storage, destination: Storage) -> None:
    one, other = f"{source.url}/", f"{destination.url}/"
    if one.startswith(other) or other.startswith(one):
        raise _same_place(source, destination)


def _require_another(source: Storage, destination: Storage) -> None:
    """Two names may lead to one place; no two writes of the file `gc` are alike."""
    there, here = source.read(GC), destination.read(GC)
    if there and here and there.data == here.data:
        raise _same_place(source, destination)


def _same_place(source: Storage, destination: Storage) -> ExchangeError:
    return ExchangeError(
        f"backup of {source.url} to {destination.url}: expected two places, neither inside the"
        " other; a copy in the same place is lost together with the store"
    )


def _begin(wanted: Marker, storage: Storage) -> bool:
    """Make sure that a place holds a copy of this store; whether it was empty before."""
    found = format_marker.look(storage)
    if found is None:
        _require_empty(storage)
    else:
        _require_copy(found, wanted, storage)
    if not storage.exists():  # or it has lost its folders
        storage.prepare()
        format_marker.begin(storage, wanted)
        # Another process may have been first.
        _require_copy(format_marker.look(storage), wanted, storage)
    if storage.read(watching.KEY) is None:
        watching.begin(storage)
    return found is None


def _require_empty(storage: Storage) -> None:
    for entry in storage.walk(""):
        if not LEFT.fullmatch(entry.key):
            raise ExchangeError(
                f"backup to {storage.url}: expected a backup of this store or an empty place, found"
                f" other files, such as {entry.key}; choose another place"
            )


def _require_copy(found: Marker | None, wanted: Marker, storage: Storage) -> None:
    if found is None or found.id != wanted.id:
        raise ExchangeError(
            f"backup to {storage.url}: expected a copy of the store with the id {wanted.id}, found"
            f" {f'the store {found.id}' if found else 'no marker'}; choose another place"
        )
    found.require_writable(storage.url)


@dataclass(frozen=True, slots=True)
class _Change:
    """A document of the source that the destination lacks."""

    key: str
    document: Document  # as the destination is to hold it
    found: Small | None  # what the destination holds
    references: frozenset[Reference]  # that the destination need not hold yet


class _Run:
    """One run, and what it has done so far."""

    def __init__(self, source: Storage, destination: Storage, lease: Lease, held: Held) -> None:
        self.documents: set[str] = set()  # of the source
        self.copied: set[str] = set()
        self.problems: dict[str, str] = {}  # by document
        self.blobs = BlobCopy(Blobs(source), Blobs(destination))
        self._source, self._from = source, Refs(source)
        self._destination, self._to = destination, Refs(destination)
        self._lease = lease
        self._held = held

    def copy(self, kind: str) -> None:
        """All documents of a kind, and what they need."""
        here = {*self._from.keys(kind), *self._from.lost(kind)}
        self.documents |= here
        keys = sorted(here.union(self._to.keys(kind), self._to.lost(kind)))
        at_once = len(keys) if kind == AGENTS else AT_ONCE
        for start in range(0, len(keys), at_once or 1):
            waiting = {key: frozenset[Reference]() for key in keys[start : start + at_once]}
            while waiting:
                self._held.check()
                waiting = self._round(kind, waiting)
                self._from.require_store()  # one that is gone is not one that is damaged
        self._from.require_store()  # nor one that is empty

    def _round(
        self, kind: str, failed: Mapping[str, frozenset[Reference]]
    ) -> dict[str, frozenset[Reference]]:
        """Copy documents; those to be looked at again, with the references that failed.

        `failed` holds what failed before: a reference that is still there has lost what it needs.
        """
        changes = self._changes(kind, list(failed))
        errors = self.blobs.copy({manifest for c in changes for _, manifest in c.references})
        whole: list[_Change] = []
        again: dict[str, frozenset[Reference]] = {}
        for change in changes:
            broken = frozenset(r for r in change.references if r[1] in errors)
            if lost := broken & failed[change.key]:
                self._add_problem(change.key, errors[min(manifest for _, manifest in lost)])
            elif broken:
                again[change.key] = broken
            else:
                whole.append(change)
        if again and kind == AGENTS:  # which refer to each other: not some before the others
            left = (key for key in failed if key not in self.problems)
            return {key: again.get(key, frozenset()) for key in left}
        return again | dict.fromkeys(self._write(whole), frozenset())

    def _add_problem(self, key: str, error: Exception) -> None:
        self.problems[key] = f"{key} is not backed up: {error}"

    def _changes(self, kind: str, keys: Sequence[str]) -> list[_Change]:
        """What the destination lacks of these documents."""
        # A copy is read before its document, so that it is not ahead of it.
        here_copies = self._from.read_many(map(copy_key, keys))
        here = self._read(kind, keys)
        there_copies = self._to.read_many(map(copy_key, keys))
        there = self._to.read_many(keys)
        changes: list[_Change] = []
        for key in keys:
            self.problems.pop(key, None)  # signatures are looked at twice
            try:
                document = self._from.parse(key, here[key])
                if here[key] is None or not document.knows(_copy(self._from, key, here_copies)):
                    raise CorruptRef(
                        f"ref {self._from.where(key)}: it was lost, or put back to what it said"
                        " earlier; run verify --repair on the source, then back up again"
                    )
                copy = _copy(self._to, key, there_copies)
                change = self._change(key, document, there[key], copy)
            except UNREADABLE as error:
                self._add_problem(key, error)
                continue
            changes += [change] if change else []
        return changes

    def _read(self, kind: str, keys: Sequence[str]) -> Mapping[str, Read]:
        """Documents of the source, durable there.

        Those of agents refer to each other: they are read until nothing has changed meanwhile.
        """
        found = self._from.read_many(keys)
        for _ in range(READS if kind == AGENTS else 0):
            before, found = found, self._from.read_many(keys)
            if all(_same(found[key], before[key]) for key in keys):
                break
        with suppress(OSError):  # a snapshot, mounted read-only, need not know how to sync
            self._source.settle(kind)
        return found

    def _change(self, key: str, document: Document, found: Read, copy: Document) -> _Change | None:
        """What the destination lacks of a document. Raises CorruptRef where it has another."""
        if found and _is_emptied(key, document):
            return None  # the gc there empties its own, when it removes what they sign
        there = self._to.parse(key, found)
        ahead = max(there, copy, key=lambda it: it.count)
        unknown = [it for it in (there, copy) if not _follows(document, it)]
        # One that says the same was written again by a repair.
        differs = any(it.value != document.value for it in unknown)
        if differs and not _is_emptied(key, ahead):
            raise CorruptRef(
                f"ref {self._to.where(key)}: it says what {self._from.where(key)} does not know: it"
                " was written to, or the source was put back; restore the source from it, or back"
                " up to another place"
            )
        current = found if isinstance(found, Small) else None
        if current and there.value == document.value and not unknown:
            kept = copy.count >= there.count
            return None if kept else _Change(key, there, current, frozenset())
        known = self._to.roots(key, there)
        new = frozenset(r for r in _references(self._from, key, document) if r[1] not in known)
        return _Change(key, _following(document, ahead), current, new)

    def _write(self, changes: Sequence[_Change]) -> list[str]:
        """Write documents whose blobs are there; those that somebody else wrote meanwhile."""
        if not changes:
            return []
        self.blobs.settle()
        tasks = [name_in(c.key) for c in changes if c.key.startswith(f"{TASKS}/")]
        watching.announce(self._destination, *filter(None, tasks))
        self._held.check()
        with self._lease.unanswered():
            done = in_parallel(lambda c: self._to.take_over(c.key, c.document, c.found), changes)
        self.copied.update(change.key for change, it in zip(changes, done, strict=True) if it)
        return [change.key for change, it in zip(changes, done, strict=True) if not it]


def _same(one: Read, other: Read) -> bool:
    return (one.data if isinstance(one, Small) else None) == (
        other.data if isinstance(other, Small) else None
    )


def _copy(refs: Refs, key: str, read: Mapping[str, Read]) -> Document:
    """The second copy of a document; one that is damaged says nothing."""
    try:
        return refs.parse(copy_key(key), read[copy_key(key)])
    except CorruptRef:
        return Document()


def _references(refs: Refs, key: str, document: Document) -> set[Reference]:
    """What a document refers to. Raises CorruptRef."""
    if key.startswith(f"{TASKS}/"):
        found = refs.versions_in(key, document).versions
        return {(number, version.manifest) for number, version in found.items()}
    return {(document.tokens[-1:], manifest) for manifest in refs.roots(key, document)}


def _is_emptied(key: str, document: Document) -> bool:
    """Whether it held signatures, which a gc has removed with what they sign."""
    return key.startswith(f"{SIGNATURES}/") and document.value is None


def _follows(document: Document, there: Document) -> bool:
    """Whether it is what became of the other; True also if that is too long ago to tell."""
    known = set(there.tokens[-1:]) <= set(document.tokens)
    return known or document.count - there.count >= TOKENS


def _following(document: Document, there: Document) -> Document:
    """A document of the source as what follows on one at the destination.

    No writer's claim goes along. Where a gc has written at the destination, that is told too.
    """
    tokens = document.tokens
    if not set(there.tokens[-1:]) <= set(tokens):
        tokens = (*tokens[:-1], *there.tokens[-1:], *tokens[-1:])[-TOKENS:]
    return Document(document.value, {}, tokens, max(document.count, there.count + 1))
