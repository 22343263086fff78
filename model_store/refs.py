"""The mutable part of a store: a small JSON document for each task, agent, pin and signed manifest.

A document is replaced whole, by compare-and-swap, and never removed. So every operation takes
effect in one step: a version, its number, what is live and the aliases of a task stand in one
document and cannot contradict each other. Four things stand in each (FORMAT.md, "Documents"):

`value`   what it says: the versions of a task, or the manifest of an agent, pin or signature
`claims`  manifests that a writer is about to refer to, by the token of the writer; gc keeps them
`tokens`  of the last writes. Every write has a token of its own, so that no content occurs twice,
          and a writer that got no answer can tell whether its write took effect
`count`   of all its writes

Each document is kept twice. A change is acknowledged when its second copy has it too. So a document
that is lost, or put back to what it said earlier, is noticed, and can be restored from its copy.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from model_store.blobs import Digest, parse_digest
from model_store.canonical_json import seal, unseal
from model_store.errors import (
    CorruptRef,
    DamagedStore,
    InvalidName,
    StorageError,
    StoreNotFound,
    Unstorable,
    Unsure,
)
from model_store.files.protocol import MAX_SMALL_BYTES, Read, Small, Storage
from model_store.names import TASKS, copy_key, name_in, task_key
from model_store.versions import Versions

TOKENS = 32  # kept of the last writes
MAX_BYTES = MAX_SMALL_BYTES - 2**16  # of a document that grows

UNREADABLE = (CorruptRef, StorageError, OSError)  # what reading one document may end with
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Document:
    """What one file of the refs holds."""

    value: Any = None
    claims: Mapping[str, Digest] = field(default_factory=dict[str, Digest])
    tokens: tuple[str, ...] = ()
    count: int = 0  # of writes

    def to_bytes(self, key: str) -> bytes:
        """As it is stored."""
        claims, tokens = dict(self.claims), list(self.tokens)
        return seal(
            key, {"claims": claims, "count": self.count, "tokens": tokens, "value": self.value}
        )

    @classmethod
    def from_bytes(cls, key: str, data: bytes) -> "Document":
        """Raises ValueError, TypeError, KeyError, InvalidName or RecursionError."""
        content = unseal(key, data)
        claims = {str(token): parse_digest(d) for token, d in content["claims"].items()}
        return cls(content["value"], claims, tuple(content["tokens"]), int(content["count"]))

    def knows(self, other: "Document") -> bool:
        """Whether this is the other one, or what became of it; True also if it is too long ago."""
        if self.count < other.count:
            return False
        return self.count - other.count >= TOKENS or {*other.tokens[-1:]} <= {*self.tokens}


@dataclass(frozen=True, slots=True)
class Copy:
    """The second copy of a document, as it was read."""

    document: Document
    read: Small | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim that a writer has made in a document, and the document's copy before that."""

    token: str
    copy: Copy
    document: Document  # with the claim in it


class Refs:
    """The documents of a store. Every change is one compare-and-swap of one file."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    # -- reading

    def keys(self, kind: str) -> list[str]:
        """The keys of all documents of a kind, sorted; verify reports what else is there."""
        keys = (f"{kind}/{name}" for name in self._storage.names(kind))
        return sorted(key for key in keys if name_in(key) is not None)

    def owners(self, kind: str) -> list[str]:
        """The tasks, agents or pins that have a document, or the hex digits of signed manifests."""
        return sorted(name for key in self.keys(kind) if (name := name_in(key)) is not None)

    def tasks(self) -> list[str]:
        """Every task that has a document, sorted; it need not be served. Raises StoreNotFound."""
        found = self.owners(TASKS)
        if not found:
            self.require_store()
        return found

    def require_store(self) -> None:
        """Raises StoreNotFound if the store is there no longer."""
        if not self._storage.exists():
            raise StoreNotFound(f"store {self._storage.url}: it was there, and is no longer")

    def read(self, key: str) -> Document:
        """A document; an empty one if there is none. Raises CorruptRef."""
        return self.parse(key, self.read_many([key])[key])

    def read_many(self, keys: Iterable[str]) -> dict[str, Read]:
        """What the storage has of these documents, to be parsed."""
        return self._storage.read_many(keys)

    def parse(self, key: str, read: Read) -> Document:
        """A document that was read.

        Raises CorruptRef, or the OSError or StorageError that its read ended with.
        """
        if read is None:
            return Document()
        if isinstance(read, DamagedStore):
            raise CorruptRef(f"ref {read}") from read
        if isinstance(read, Exception):
            raise read
        return self._checked(key, lambda: Document.from_bytes(key, read.data))

    def versions(self, task: str) -> Versions:
        """What the document of a task says. Raises CorruptRef."""
        key = task_key(task)
        return self.versions_in(key, self.read(key))

    def versions_in(self, key: str, document: Document) -> Versions:
        """What the document of a task says. Raises CorruptRef."""
        return self._checked(key, lambda: Versions.from_json(document.value))

    def manifest(self, key: str) -> Digest | None:
        """What the document of an agent, a pin or a signed manifest names. Raises CorruptRef."""
        return self.manifest_in(key, self.read(key))

    def manifest_in(self, key: str, document: Document) -> Digest | None:
        """What a document of one manifest names; None if nothing. Raises CorruptRef."""
        value = document.value
        return None if value is None else self._checked(key, lambda: parse_digest(value))

    def roots(self, key: str, document: Document) -> set[Digest]:
        """The manifests that a document of any kind, or its copy, refers to. Raises CorruptRef."""
        if key.startswith((f"{TASKS}/", f"{copy_key(TASKS)}/")):
            return {v.manifest for v in self.versions_in(key, document).versions.values()}
        manifest = self.manifest_in(key, document)
        return {manifest} if manifest else set()

    def _checked(self, key: str, parse: Callable[[], T]) -> T:
        try:
            return parse()
        except (ValueError, TypeError, KeyError, AttributeError, InvalidName, RecursionError) as e:
            where = self._storage.where(key)
            raise CorruptRef(f"ref {where}: {str(e)[:200]}; restore it from a copy") from e

    def copy(self, key: str) -> Document:
        """The second copy of a document; an empty one if there is none. Raises CorruptRef."""
        return self.read(copy_key(key))

    def lost(self, kind: str) -> list[str]:
        """The keys of documents that are not there, of which there is a copy, sorted."""
        return self.there_and_lost(kind)[1]

    def there_and_lost(self, kind: str) -> tuple[list[str], list[str]]:
        """The keys of all documents, and those of which there is only a copy, sorted."""
        # In this order: a document is there before its copy, and is never removed.
        copied = self._storage.names(copy_key(kind))
        there = self.keys(kind)
        lost = {f"{kind}/{name}" for name in copied}.difference(there)
        return there, sorted(key for key in lost if name_in(key) is not None)

    # -- writing

    def swap(
        self, key: str, change: Callable[[Document], Document | None], *, claim: Claim | None = None
    ) -> Document | None:
        """Replace a document by what `change` makes of it, in one step; durable on return.

        `change` is asked again when another writer comes in between. It returns None to leave the
        document as it is, and may raise. The document there is then; None, with nothing changed, if
        `claim` is given and the document does not hold it any more. Raises CorruptRef, changing
        nothing, where the document has lost what its copy says.
        """
        copy = claim.copy if claim else self._read_copy(key)
        document = self._swap(key, change, copy, claim.token if claim else None)
        if document is not None:
            self._keep(key, document, copy)
        return document

    def _swap(
        self,
        key: str,
        change: Callable[[Document], Document | None],
        copy: Copy | None,
        claim: str | None = None,
    ) -> Document | None:
        """As `swap`, without a change of the copy."""
        token = claim or secrets.token_hex(8)
        unsure: Document | None = None  # what a try that was not answered would have replaced
        while True:
            current = self._storage.read(key)
            document = self.parse(key, current)
            if copy and not document.knows(copy.document):
                raise self._lacking(key)
            if _took_effect(token, unsure, document, self._storage.where(key)):
                return document
            unsure = None
            if claim is not None and claim not in document.claims:
                return None
            changed = change(document)
            if changed is None and claim is None:
                # Another writer's change may be there that is not durable yet.
                self._settle(key)
                return document
            changed = changed or document
            claims = {t: d for t, d in changed.claims.items() if t != claim}
            tokens = (*document.tokens, token)[-TOKENS:]
            new = Document(changed.value, claims, tokens, document.count + 1)
            version = current.version if current else None
            data = new.to_bytes(key)
            self._require_room(key, data, current)
            try:
                if self._storage.replace(key, data, version):
                    return new
            except Unsure:
                unsure = document

    def _require_room(self, key: str, data: bytes, current: Small | None) -> None:
        """Raises Unstorable for a document that would grow beyond what is read.

        Room is left for what makes it smaller, and for a repair.
        """
        if len(data) > MAX_BYTES and (current is None or len(data) > len(current.data)):
            raise Unstorable(
                f"ref {self.where(key)}: expected at most {MAX_BYTES} bytes, found {len(data)};"
                " remove versions that nobody needs (`munet store rm TASK --version N`),"
                " and run gc, which takes back what writers that died have left"
            )

    def _read_copy(self, key: str) -> Copy:
        """The copy of a document. Read before the document, it is never ahead of it."""
        current = self._storage.read(copy_key(key))
        try:
            return Copy(self.parse(copy_key(key), current), current)
        except CorruptRef:
            return Copy(Document(), current)  # it is written again

    def settled(self, keys: Iterable[str]) -> Iterator[tuple[str, Document]]:
        """Each of these documents, after its copy was brought up to it. Raises CorruptRef where a
        document has lost what its copy says.
        """
        wanted = list(keys)
        copies = self.read_many([copy_key(key) for key in wanted])  # before the documents
        for key, read in self.read_many(wanted).items():
            document, current = self.parse(key, read), copies[copy_key(key)]
            try:
                copy = Copy(self.parse(copy_key(key), current), cast(Small | None, current))
            except CorruptRef:  # verify reports it
                yield key, document
                continue
            if not document.knows(copy.document):
                raise self._lacking(key)
            if copy.document.count < document.count:
                self._settle(key)
                self._keep(key, document, copy)
            yield key, document

    def _settle(self, key: str) -> None:
        """Let a document that was only read be durable: its writer may have failed, or died."""
        self._storage.settle(key.rpartition("/")[0])

    def _keep(self, key: str, document: Document, copy: Copy) -> None:
        """Let the copy of a document say at least what the document says; durable on return.

        The document has to be durable: a copy that outlasts it would speak of what never was.
        """
        place = copy_key(key)
        data = replace(document, claims={}).to_bytes(place)
        while copy.document.count < document.count:
            with suppress(Unsure):
                version = copy.read.version if copy.read else None
                if self._storage.replace(place, data, version):
                    return
            copy = self._read_copy(key)
        self._storage.settle(place.rpartition("/")[0])

    def _lacking(self, key: str) -> CorruptRef:
        return CorruptRef(
            f"ref {self.where(key)}: it lacks what its copy {self.where(copy_key(key))} says: it"
            " was lost, put back or changed by hand; run verify --repair"
        )

    def claim(self, key: str, manifest: Digest) -> Claim:
        """Let gc keep a manifest and what it needs until this writer refers to it.

        Raises CorruptRef as `swap` does.
        """
        token, copy = secrets.token_hex(8), self._read_copy(key)
        claims = {token: manifest}
        document = self._swap(key, lambda d: replace(d, claims={**d.claims, **claims}), copy)
        assert document is not None  # only a claim can be taken back
        return Claim(token, copy, document)

    def forget_lost(self, key: str) -> None:
        """Begin a lost document again, naming nothing; numbers go on where its copy ends."""
        copy = self._read_copy(key)
        before = copy.document
        value = None
        if key.startswith(f"{TASKS}/"):
            found = self.versions_in(copy_key(key), before)
            value = found.without(found.versions).to_json()
        tokens = (*before.tokens, secrets.token_hex(8))[-TOKENS:]
        document = Document(value, {}, tokens, before.count + 1)
        if self._storage.replace(key, document.to_bytes(key), None):
            self._keep(key, document, copy)

    def take_over(self, key: str, document: Document, found: Small | None) -> bool:
        """Let a document be what it is in another copy of this store, in place of what was found.

        Durable on return; False if somebody else has written it meanwhile.
        """
        data = document.to_bytes(key)
        if found is None or found.data != data:
            try:
                if not self._storage.replace(key, data, found.version if found else None):
                    return False
            except Unsure:
                return False  # who looks again learns whether it was
        else:
            self._settle(key)
        self._keep(key, document, self._read_copy(key))
        return True

    def release(self, key: str, claim: Claim) -> None:
        """Give up a claim."""

        def without(document: Document) -> Document | None:
            rest = {t: d for t, d in document.claims.items() if t != claim.token}
            return replace(document, claims=rest) if len(rest) < len(document.claims) else None

        self._swap(key, without, None)

    def take_claims_back(self, key: str) -> Document:
        """Let no writer that has a claim now refer to its manifest; the document then."""
        document = self._swap(key, lambda d: replace(d, claims={}) if d.claims else None, None)
        assert document is not None  # no claim of this process's own was asked for
        return document

    def where(self, key: str) -> str:
        """The path or URL of a document."""
        return self._storage.where(key)


def _took_effect(token: str, unsure: Document | None, found: Document, where: str) -> bool:
    """Whether a write took effect by a try that was not answered, or that was refused when the
    network had repeated it; if not, it never will.

    `unsure` is what one that was not answered would have replaced. Raises Unsure where it cannot be
    told.
    """
    if token in found.tokens:
        return True
    if unsure and found.count - unsure.count > TOKENS:
        raise Unsure(
            f"writing {where}: not answered, and written {TOKENS} times by others meanwhile: it"
            " may have taken effect; look before doing it again"
        )
    return False
