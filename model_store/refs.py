"""The mutable part of a store: a small JSON document for each task, agent, pin and signed manifest.

A document is replaced whole, by compare-and-swap, and never removed. So every operation takes
effect in one step: a version, its number, what is live and the aliases of a task stand in one
document and cannot contradict each other. Three things stand in each (FORMAT.md, "Documents"):

`value`   what it says: the versions of a task, or the manifest of an agent, pin or signature
`claims`  manifests that a writer is about to refer to, by the token of the writer; gc keeps them
`tokens`  of the last writes. Every write has a token of its own, so that no content occurs twice,
          and a writer that got no answer can tell whether its write took effect
"""

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from model_store.blobs import Digest, parse_digest
from model_store.errors import (
    CorruptRef,
    DamagedStore,
    InvalidName,
    StorageError,
    StoreNotFound,
    Unsure,
)
from model_store.keys import LIVE, TASKS, name_in, task_key
from model_store.sealed import seal, unseal
from model_store.storage import Read, Storage

ALIAS_PATTERN = r"(?!v[0-9]+$|live$)[a-z][a-z0-9_-]{0,31}"
ALIAS = re.compile(ALIAS_PATTERN)
TOKENS = 32  # kept of the last writes
MAX_VERSION = 10**9

UNREADABLE = (CorruptRef, StorageError, OSError)  # what reading one document may end with
T = TypeVar("T")


def require_alias(name: str) -> str:
    """`name` if it may be an alias; else InvalidName."""
    if not ALIAS.fullmatch(name):
        raise InvalidName(
            f"alias {name!r}: expected up to 32 lower case letters, digits, `_` and `-`, beginning"
            " with a letter, other than `live` and v<N>"
        )
    return name


@dataclass(frozen=True, slots=True)
class Version:
    """A published version, as its task's document has it."""

    manifest: Digest
    created: str  # RFC 3339, UTC, by the clock of who published it


@dataclass(frozen=True, slots=True)
class Versions:
    """The value of a task's document. A number is never used twice."""

    versions: Mapping[int, Version] = field(default_factory=dict[int, Version])  # ascending
    next: int = 1  # the number of the next version
    live: int | None = None
    chosen: int = 0  # the number of the next version, when `live` was set last
    aliases: Mapping[str, int] = field(default_factory=dict[str, int])

    def add(self, version: Version, *, live: bool) -> "Versions":
        """With one version more, which is live from now on or not."""
        number = self.next
        found = replace(self, versions={**self.versions, number: version}, next=number + 1)
        return found.serving(number) if live else found

    def serving(self, number: int) -> "Versions":
        """With this version live; nothing changes if it is already."""
        return self if self.live == number else replace(self, live=number, chosen=self.next)

    @property
    def served(self) -> tuple[int, Digest] | None:
        """Number and manifest of the live version."""
        return None if self.live is None else (self.live, self.versions[self.live].manifest)

    def without(self, numbers: Iterable[int]) -> "Versions":
        """Without these versions and what names them."""
        gone = set(numbers)
        return replace(
            self,
            versions={n: v for n, v in self.versions.items() if n not in gone},
            live=None if self.live in gone else self.live,
            aliases={name: n for name, n in self.aliases.items() if n not in gone},
        )

    def names_of(self, number: int) -> list[str]:
        """`live` and the aliases that name a version."""
        return ([LIVE] if self.live == number else []) + self.aliases_of(number)

    def aliases_of(self, number: int) -> list[str]:
        """The aliases that name a version, sorted."""
        return sorted(name for name, n in self.aliases.items() if n == number)

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "aliases": dict(self.aliases),
            "chosen": self.chosen,
            "live": self.live,
            "next": self.next,
            "versions": {str(n): [v.manifest, v.created] for n, v in self.versions.items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> "Versions":
        """Raises ValueError, TypeError, KeyError or InvalidName."""
        if value is None:
            return cls()
        versions = {
            _number(int(text)): Version(parse_digest(manifest), str(created))
            for text, (manifest, created) in value["versions"].items()
        }
        live, aliases = value["live"], value["aliases"]
        ascending = dict(sorted(versions.items()))
        found = cls(ascending, _number(value["next"]), live, int(value["chosen"]), dict(aliases))
        named = [*found.aliases.values(), *([] if live is None else [live])]
        if not all(type(n) is int and n in versions for n in named):
            raise ValueError("live or an alias names a version that is not there")
        if any(not ALIAS.fullmatch(name) for name in found.aliases):
            raise ValueError("an alias has another name than an alias may have")
        if max(versions, default=0) >= found.next:
            raise ValueError("the next version has the number of one that is there")
        return found


@dataclass(frozen=True, slots=True)
class Document:
    """What one file of the refs holds."""

    value: Any = None
    claims: Mapping[str, Digest] = field(default_factory=dict[str, Digest])
    tokens: tuple[str, ...] = ()

    def to_bytes(self, key: str) -> bytes:
        """As it is stored."""
        claims, tokens = dict(self.claims), list(self.tokens)
        return seal(key, {"claims": claims, "tokens": tokens, "value": self.value})

    @classmethod
    def from_bytes(cls, key: str, data: bytes) -> "Document":
        """Raises ValueError, TypeError, KeyError, InvalidName or RecursionError."""
        content = unseal(key, data)
        claims = {str(token): parse_digest(d) for token, d in content["claims"].items()}
        return cls(content["value"], claims, tuple(content["tokens"]))


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
        """The manifests that a document of any kind refers to. Raises CorruptRef."""
        if key.startswith(f"{TASKS}/"):
            return {v.manifest for v in self.versions_in(key, document).versions.values()}
        manifest = self.manifest_in(key, document)
        return {manifest} if manifest else set()

    def _checked(self, key: str, parse: Callable[[], T]) -> T:
        try:
            return parse()
        except (ValueError, TypeError, KeyError, AttributeError, InvalidName, RecursionError) as e:
            where = self._storage.where(key)
            raise CorruptRef(f"ref {where}: {str(e)[:200]}; restore it from a copy") from e

    # -- writing

    def swap(
        self, key: str, change: Callable[[Document], Document | None], *, claim: str | None = None
    ) -> Document | None:
        """Replace a document by what `change` makes of it, in one step; durable on return.

        `change` is asked again when another writer comes in between. It returns None to leave the
        document as it is, and may raise. The document there is then; None, with nothing changed, if
        `claim` is given and the document does not hold it any more.
        """
        token = claim or secrets.token_hex(8)
        unsure: Document | None = None  # what a try that was not answered would have replaced
        while True:
            current = self._storage.read(key)
            document = self.parse(key, current)
            if unsure and _took_effect(token, unsure, document, self._storage.where(key)):
                return document
            unsure = None
            if claim is not None and claim not in document.claims:
                return None
            changed = change(document)
            if changed is None and claim is None:
                # Another writer's change may be there that is not durable yet.
                self._storage.settle(key.rpartition("/")[0])
                return document
            changed = changed or document
            claims = {t: d for t, d in changed.claims.items() if t != claim}
            tokens = (*document.tokens, token)[-TOKENS:]
            new = Document(changed.value, claims, tokens)
            version = current.version if current else None
            try:
                if self._storage.replace(key, new.to_bytes(key), version):
                    return new
            except Unsure:
                unsure = document

    def claim(self, key: str, manifest: Digest) -> str:
        """Let gc keep a manifest and what it needs until this writer refers to it; its token."""
        token = secrets.token_hex(8)
        self.swap(key, lambda d: replace(d, claims={**d.claims, token: manifest}))
        return token

    def release(self, key: str, token: str) -> None:
        """Give up a claim."""

        def without(document: Document) -> Document | None:
            rest = {t: d for t, d in document.claims.items() if t != token}
            return replace(document, claims=rest) if len(rest) < len(document.claims) else None

        self.swap(key, without)

    def where(self, key: str) -> str:
        """The path or URL of a document."""
        return self._storage.where(key)


def _took_effect(token: str, before: Document, found: Document, where: str) -> bool:
    """Whether a write took effect by a try that was not answered; if not, it never will.

    Raises Unsure where that cannot be told.
    """
    if token in found.tokens:
        return True
    if len(found.tokens) == TOKENS and not set(before.tokens[-1:]) & set(found.tokens):
        raise Unsure(
            f"writing {where}: not answered, and written {TOKENS} times by others meanwhile: it"
            " may have taken effect; look before doing it again"
        )
    return False


def _number(value: Any) -> int:
    if type(value) is not int or not 0 < value <= MAX_VERSION:
        raise ValueError("a version has a number that none may have")
    return value
