"""Repairing what verify finds: documents from their second copies, blobs from another place.

Nothing is made worse. A document is written by one compare-and-swap from what was read; a blob is
taken only with the very bytes of its digest, and replaced in one step. So a repair may be killed
anywhere, may run together with everything else, and may be run again. What it cannot repair,
verify goes on to name.
"""

import logging
import secrets
from dataclasses import dataclass, replace
from typing import Protocol

from model_store.blobs import Blobs, Digest
from model_store.errors import DamagedStore, RegistryError, StorageError, StoreError
from model_store.files import format_marker
from model_store.files.opening import open_storage
from model_store.files.protocol import Small, Storage
from model_store.names import KINDS
from model_store.refs import TOKENS, Document, Refs
from model_store.upkeep.gc import Collector
from model_store.upkeep.second_copies import Pair
from model_store.upkeep.verification import Problem, verify

logger = logging.getLogger(__name__)


class BlobSource(Protocol):
    """Where blobs can be had from; `str(source)` is its name in messages."""

    def read_blob(self, digest: Digest) -> memoryview:
        """A blob, verified. Raises StoreError or OSError."""
        ...


class StoreSource:
    """Another store; of a backup of the same store also the documents."""

    def __init__(self, url: str) -> None:
        storage = open_storage(url)
        self._url = storage.url
        self._blobs = Blobs(storage)
        self.id = format_marker.read(storage).id
        self.refs = Refs(storage)

    def __str__(self) -> str:
        return f"store {self._url}"

    def read_blob(self, digest: Digest) -> memoryview:
        """As BlobSource says."""
        return self._blobs.read(digest)


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did, a line for each file, and what is wrong still."""

    repaired: tuple[str, ...]
    problems: tuple[Problem, ...]


def repair(url: str, source: BlobSource | None = None) -> RepairReport:
    """Repair the store at `url` from its own second copies and, if given, from another place.

    Documents are taken from a backup of this very store only. Raises StoreNotFound, UnknownFormat,
    OSError or StorageError; what has been repaired by then stays so.
    """
    storage = open_storage(url)
    mark = format_marker.read(storage)
    mark.require_writable(storage.url)
    backup = source if isinstance(source, StoreSource) and source.id == mark.id else None
    run = _Repair(storage, source, backup.refs if backup else None)
    run.documents()
    problems = verify(storage, run.blobs, run.refs)
    while run.mend(problems):
        problems = verify(storage, run.blobs, run.refs)
    logger.info("event=repair repaired=%d problems=%d", len(run.repaired), len(problems))
    return RepairReport(tuple(run.repaired), (*problems, *run.notes))


class _Repair:
    """One run."""

    def __init__(self, storage: Storage, source: BlobSource | None, others: Refs | None) -> None:
        self.blobs = Blobs(storage)
        self.refs = Refs(storage)
        self.repaired: list[str] = []
        self.notes: list[Problem] = []
        self._storage = storage
        self._source = source
        self._others = others
        self._tried: set[Digest] = set()
        self._unreachable = False

    # -- documents

    def documents(self) -> None:
        """Let each document and its copy say what was acknowledged, as far as that is known."""
        for kind in KINDS:
            keys = {*self.refs.keys(kind), *self.refs.lost(kind)}
            if self._others:
                keys |= {*self._others.keys(kind), *self._others.lost(kind)}
            for key in sorted(keys):
                self._repair_document(key)

    def _repair_document(self, key: str) -> None:
        pair = Pair.read(self.refs, key)
        other = Pair.read(self._others, key).truth() if self._others else None
        truth = pair.truth(other)
        if truth is None or pair.is_whole(truth):
            return
        found = pair.main.read
        if not isinstance(found, Small | None):
            return  # no plain file: verify names it
        done = self.refs.take_over(key, _as_it_should_be(pair, truth), found)
        if done and not _was_whole(pair, truth):
            origin = self._source if truth is other else "its own two copies"
            self.repaired.append(f"{self.refs.where(key)}: written again from {origin}")
        if truth is other and pair.main.document is None and pair.copy.document is None:
            message = f"{self.refs.where(key)}: what was done since the backup is not in it"
            self.notes.append(Problem("note", self.refs.where(key), None, message))

    # -- blobs

    def mend(self, problems: list[Problem]) -> bool:
        """Replace the blobs that are damaged or missing; whether verify is to look again."""
        wrong = {p.digest for p in problems if p.severity == "error" and p.digest} - self._tried
        self._tried |= wrong
        before = len(self.repaired)
        left = [digest for digest in sorted(wrong) if not self._mend(digest)]
        if left:
            self._remove_unneeded(left)
        return len(self.repaired) > before

    def _mend(self, digest: Digest) -> bool:
        """Whether a blob is whole, by now or anyway."""
        where = self.blobs.where(digest)
        try:
            self.blobs.read(digest)
            return True  # it is honest, and what it says is wrong
        except (DamagedStore, OSError):
            pass
        if self._source is None or self._unreachable:
            return False
        try:
            data = self._source.read_blob(digest)
        except (StorageError, RegistryError, OSError) as error:
            # One that does not answer is not asked for each blob again.
            self._unreachable = not isinstance(error, FileNotFoundError)
            logger.warning(
                "event=repair_source_failed source=%s error=%r", self._source, str(error)
            )
            return False
        except StoreError as error:
            logger.info("event=not_in_source source=%s error=%r", self._source, str(error))
            return False
        try:
            self.blobs.mend(digest, data)
        except OSError as error:  # such as a folder in its place
            logger.warning("event=not_repaired blob=%s error=%r", digest, str(error))
            return False
        self.repaired.append(f"{where}: from {self._source}")
        return True

    def _remove_unneeded(self, digests: list[Digest]) -> None:
        """Of damaged blobs, those that nothing refers to: the one who puts them begins again."""
        with self._storage.alone("gc") as lease:
            collector = Collector(self._storage, self.blobs, self.refs, lease)
            try:
                removed = collector.remove_damaged(digests)
            except DamagedStore as error:  # what is needed is not known
                logger.warning("event=not_removed error=%r", str(error))
                return
        self.repaired += [
            f"{self.blobs.where(digest)}: removed, as nothing refers to it" for digest in removed
        ]


def _as_it_should_be(pair: Pair, truth: Document) -> Document:
    """What a document has to be to say the truth, and to be newer than all that is there."""
    main, copy = pair.main.document, pair.copy.document
    if main and truth is main and (copy is None or copy.count < main.count):
        return truth  # it is the copy that is behind
    known = [half for half in (main, copy) if half]
    last = [
        half.tokens[-1] for half in known if half.tokens and half.tokens[-1] not in truth.tokens
    ]
    tokens = (*truth.tokens, *last, secrets.token_hex(8))[-TOKENS:]
    count = max(half.count for half in (truth, *known)) + 1
    return replace(truth, claims={}, tokens=tokens, count=count)


def _was_whole(pair: Pair, truth: Document) -> bool:
    """Whether nothing was wrong: a copy may be behind while an operation is under way."""
    damaged = any(fault.severity == "error" for fault in pair.faults())
    empty = truth.value is None  # a claim alone needs no copy
    return truth is pair.main.document and not damaged and (empty or pair.copy.document is not None)
