"""Garbage collection: what no document refers to goes. Not for a server to run.

Any number of writers and readers, on one machine or many, may work meanwhile:
files/gc_handshake.py says how.
"""

import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from model_store.blobs import Blobs, Digest, key_of
from model_store.errors import BlobNotFound, DamagedStore
from model_store.files import format_marker
from model_store.files.gc_handshake import MAX_KEYS, Handshake
from model_store.files.protocol import Entry, Lease, Storage, Unneeded
from model_store.manifest import Manifest
from model_store.names import KINDS, SIGNATURES, copy_key, signature_key
from model_store.reading import load_manifest
from model_store.refs import Document, Refs
from model_store.store import ModelStore

logger = logging.getLogger(__name__)
READ_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class GcReport:
    """What garbage collection removed, or would remove."""

    removed: tuple[Digest, ...]
    freed_bytes: int
    kept: int  # blobs left
    temporary_files: int  # left behind by writers that died
    dry_run: bool


def collect_garbage(
    store: ModelStore,
    *,
    grace_s: float = 3600,
    dry_run: bool = False,
    fewer_documents: bool = False,
) -> GcReport:
    """Remove what no version, agent or pin refers to and nothing has touched for `grace_s`.

    The grace period has to be longer than any writer takes from its first put to its publish, and
    is never shorter than the time after which the storage executes no request that it has not
    answered. Nobody waits meanwhile but another gc, and who needs the very blobs it is removing.
    `fewer_documents` forgets the tasks, agents, pins and signatures whose documents are lost.
    Raises DamagedStore, having removed nothing that is needed, where it cannot tell what that is,
    or where a document is lost; StorageError for deletions that were not answered; LeaseLost; and
    UnknownFormat.
    """
    grace_s = max(grace_s, store.storage.late_s)
    parts = (store.storage, store.blobs, store.refs)
    if dry_run:
        return Collector(*parts, Unneeded()).plan(grace_s)
    format_marker.read(store.storage).require_writable(store.url)
    with store.storage.alone("gc") as lease:
        return Collector(*parts, lease).run(grace_s, fewer_documents=fewer_documents)


class Collector:
    """One run of garbage collection. Raises DamagedStore, having removed nothing that is needed,
    where a document or a manifest cannot be read: what it needs is then unknown.
    """

    def __init__(self, storage: Storage, blobs: Blobs, refs: Refs, lease: Lease) -> None:
        self._storage = storage
        self._blobs = blobs
        self._refs = refs
        self._lease = lease
        self._manifests: dict[Digest, Manifest] = {}  # that were read
        self._handshake = Handshake(storage)
        self._signatures: dict[Digest, tuple[str, ...]] = {}  # signed manifest -> its tokens
        self._refusals: list[OSError] = []  # of the system, to remove a file

    def plan(self, grace_s: float) -> GcReport:
        """What `run` would remove now, by this machine's clock; writes nothing."""
        before = time.time() - grace_s
        garbage = self._garbage(before)
        leftovers = self._storage.tidy(before, dry_run=True)
        return self._report(garbage, leftovers, dry_run=True)

    def run(self, grace_s: float, *, fewer_documents: bool) -> GcReport:
        """Remove what nothing refers to and nothing has touched for `grace_s`.

        `fewer_documents` lets documents that are lost be forgotten. A file that the system does not
        let go keeps none of the others: its OSError is raised at the end.
        """
        self._handshake.begin(self._lease)
        before = self._handshake.began() - grace_s
        removed: dict[Digest, int] = {}
        documents = self._require_documents(forget=fewer_documents)
        garbage = self._garbage(before, take_claims_back=True)
        if not documents and not fewer_documents:
            self._require_no_manifest(garbage)
        for start in range(0, len(garbage), MAX_KEYS):
            digests = list(garbage)[start : start + MAX_KEYS]
            removed |= {digest: garbage[digest] for digest in self._remove(digests, before)}
        self._handshake.end()
        leftovers = self._storage.tidy(before, dry_run=False)
        report = self._report(removed, leftovers, dry_run=False)
        self._require_removed()
        return report

    def remove_damaged(self, digests: Iterable[Digest]) -> list[Digest]:
        """Remove those of these blobs that nothing refers to, however new; what was removed."""
        self._handshake.begin(self._lease)
        self._require_documents(forget=False)
        removed = self._remove(list(digests), math.inf, signed_before=-math.inf)
        self._require_removed()
        return removed

    def _require_removed(self) -> None:
        if self._refusals:
            raise self._refusals[0]

    def _report(self, garbage: dict[Digest, int], leftovers: int, dry_run: bool) -> GcReport:
        gone = {digest: size for digest, size in garbage.items() if size}
        kept = sum(1 for _ in self._all()) - (len(gone) if dry_run else 0)
        logger.info("event=gc removed=%d kept=%d dry_run=%s", len(gone), kept, dry_run)
        return GcReport(tuple(gone), sum(gone.values()), kept, leftovers, dry_run)

    def _remove(
        self, garbage: list[Digest], before: float, signed_before: float | None = None
    ) -> list[Digest]:
        """Remove those of the garbage that nobody objects to."""
        keys = {key_of(digest): digest for digest in garbage}
        self._handshake.propose(keys)
        # Looked at once more: from here on, a writer that needs one of them says so.
        still = self._garbage(before)
        # It has to outlast a loss of power: another writer may not have synced it yet.
        for kind in KINDS:
            self._storage.settle(kind)
            self._storage.settle(copy_key(kind))
        doomed = self._handshake.doom(key for key, digest in keys.items() if digest in still)
        found = [keys[key] for key in sorted(doomed)]
        with self._lease.unanswered():
            self._refusals += self._handshake.remove(doomed, self._lease)
            self._forget_signatures(found, before if signed_before is None else signed_before)
        self._handshake.end()
        return found

    def _garbage(self, before: float, *, take_claims_back: bool = False) -> dict[Digest, int]:
        """Blobs that nothing refers to and nothing has touched since, and their bytes.

        With them, at 0 bytes, what was signed before then and never came, or has gone.
        """
        sizes: dict[Digest, int] = {}
        there: set[Digest] = set()
        for digest, entry in self._all():
            there.add(digest)
            if entry.modified <= before:
                sizes[digest] = entry.size
        signed = {_signed(e.key) for e in self._storage.walk(SIGNATURES) if e.modified <= before}
        if not sizes and not signed and not take_claims_back:
            return {}
        needed = self._needed(take_claims_back=take_claims_back)
        waiting = (self._signatures.keys() & signed) - there
        return {d: sizes.get(d, 0) for d in {*sizes, *waiting} - needed}

    def _all(self) -> Iterator[tuple[Digest, Entry]]:
        for item in self._blobs.all():
            self._lease.renew()
            yield item

    # -- what documents refer to

    def _needed(self, *, take_claims_back: bool) -> set[Digest]:
        needed, whole = set[Digest](), set[Digest]()
        self._signatures = {}
        for key, document in self._all_documents(settled=take_claims_back):
            if document.claims and take_claims_back:
                # A writer under way claims again; of one that died nothing stays.
                document = self._refs.take_claims_back(key)
            if not document.count:
                # It was listed, and a document is never removed: one wrong answer must not be
                # enough to take what it needs for garbage.
                raise DamagedStore(
                    f"{self._refs.where(key)}: expected a document, as it is listed, found none;"
                    " run gc again, and verify --repair if it is still missing"
                )
            if key.startswith(f"{SIGNATURES}/") and document.value is not None:
                self._signatures[_signed(key)] = document.tokens
            for manifest in self._refs.roots(key, document):
                self._need(manifest, needed, whole)
            for manifest in document.claims.values():
                # What is not there yet, its writer puts again, and then looks after the rest.
                with suppress(BlobNotFound):
                    self._need(manifest, needed, whole)
        return needed

    def _all_documents(self, *, settled: bool) -> Iterator[tuple[str, Document]]:
        """Every document, with its key. Raises CorruptRef.

        `settled`: with its copy brought up to it first, so that no copy names what is removed, and
        refused if it has lost what the copy says.
        """
        for kind in KINDS:
            keys = self._refs.keys(kind)
            for start in range(0, len(keys), READ_AT_ONCE):
                self._lease.renew()
                some = keys[start : start + READ_AT_ONCE]
                if settled:
                    yield from self._refs.settled(some)
                else:
                    read = self._refs.read_many(some)
                    yield from ((key, self._refs.parse(key, read[key])) for key in some)

    def _need(self, digest: Digest, needed: set[Digest], whole: set[Digest]) -> None:
        """Add a manifest and all it needs; `whole` are those whose needs are among them."""
        if digest in whole:
            return
        if digest not in self._manifests:
            self._lease.renew()
            self._manifests[digest] = load_manifest(self._blobs, digest)
        manifest = self._manifests[digest]
        needed.update((digest, *(blob.digest for blob in manifest.blobs())))
        for part in manifest.parts:
            self._need(part, needed, whole)
        whole.add(digest)

    def _require_documents(self, *, forget: bool) -> int:
        """Raises DamagedStore where one is lost, or forgets what it said; how many there are."""
        documents = 0
        for kind in KINDS:
            there, lost = self._refs.there_and_lost(kind)
            documents += len(there) + len(lost)
            if forget:
                for key in lost:
                    self._refs.forget_lost(key)
            elif lost:
                raise DamagedStore(
                    f"{self._storage.where(kind)}: {len(lost)} documents are lost, such as"
                    f" {lost[0]}; run verify --repair, or gc --fewer-documents to forget"
                    " them and remove what only they needed"
                )
        self._handshake.count(documents, fewer=forget)
        return documents

    def _require_no_manifest(self, garbage: Iterable[Digest]) -> None:
        """Raises DamagedStore for a manifest in a store without any document.

        Who puts a manifest makes a document next, and no document is ever removed.
        """
        for digest in garbage:
            with suppress(DamagedStore):
                load_manifest(self._blobs, digest)
                break
        else:
            return
        raise DamagedStore(
            f"{self._storage.url}: expected a document that names manifests such as {digest},"
            " found no document at all: the store is not whole, or its first publish was stopped;"
            " restore the documents, or run gc --fewer-documents to remove what only they needed"
        )

    def _forget_signatures(self, doomed: Iterable[Digest], before: float) -> None:
        """Of manifests that are being removed; a writer that needs one waits for that."""
        for signed in doomed:
            key, tokens = signature_key(signed), self._signatures.get(signed)
            entry = self._storage.stat(key) if tokens is not None else None
            if entry and entry.modified <= before:
                self._lease.renew()
                self._refs.swap(key, lambda d, tokens=tokens: self._emptied(d, tokens))

    def _emptied(self, document: Document, tokens: tuple[str, ...] | None) -> Document | None:
        """A document of signatures without them, unless another signer has come."""
        self._lease.require()  # the last thing before the request
        return replace(document, value=None) if document.tokens == tokens else None


def _signed(key: str) -> Digest:
    return Digest(f"sha256:{key.rpartition('/')[2]}")
