"""A document and its second copy, held against each other: what is wrong, and which is true.

A document is written before its copy, and each write has a count and a token of its own. So a copy
that is older than its document belongs to an operation that is under way, or was stopped before it
was acknowledged. Everything else is damage: a document, or a copy, that cannot be read; a document
that is not there, or does not know what its copy says; and two that say different things of one
write.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from model_store.errors import CorruptRef
from model_store.files.protocol import Read
from model_store.names import copy_key
from model_store.refs import Document, Refs

# An error harms who reads; a warning nobody; a note tells of an operation that is under way.
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Half:
    """One of the two, as it was read."""

    where: str
    read: Read
    document: Document | None  # None if it is not there, or cannot be read
    error: str  # why it cannot be read


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to be said of a pair."""

    severity: Severity
    where: str
    message: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Both of them."""

    main: Half
    copy: Half

    @classmethod
    def read(cls, refs: Refs, key: str) -> "Pair":
        """In the order in which neither seems ahead that is not. Raises StorageError."""
        copy = _half(refs, copy_key(key))
        return cls(_half(refs, key), copy)

    def faults(self) -> Iterator[Fault]:
        """What is wrong, or under way."""
        main, copy = self.main.document, self.copy.document
        for half in (self.main, self.copy):
            if half.error:
                yield Fault("error", half.where, half.error)
        if main is None and copy is not None and not self.main.error:
            message = f"{self.main.where}: is lost; {self.copy.where} has what it said"
            yield Fault("error", self.main.where, f"{message}; run verify --repair")
        if main is not None and not self.copy.error:
            yield from self._differences(main, copy or Document())

    def _differences(self, main: Document, copy: Document) -> Iterator[Fault]:
        where = self.main.where
        if not _follows(main, copy):
            message = (
                f"{where}: lost, put back or changed by hand: expected what {self.copy.where} says,"
                " found something else; run verify --repair"
            )
            yield Fault("error", where, message)
        elif main.value != copy.value:
            message = (
                f"{where}: ahead of {self.copy.where}: an operation is under way, or was stopped"
                " before it was acknowledged, or the copy was lost or put back: the next operation"
                " or gc writes it"
            )
            yield Fault("note", where, message)
        if main.claims:
            message = (
                f"{where}: {len(main.claims)} writers are about to refer to a manifest, or were"
                " stopped before they did"
            )
            yield Fault("note", where, message)

    def truth(self, other: Document | None = None) -> Document | None:
        """What was acknowledged, as far as it is known; None if nothing is.

        `other` is what a backup of the same store has.
        """
        found = self._true_half(other)
        if other is None or (found and not (other.count > found.count and other.knows(found))):
            return found
        return other

    def _true_half(self, other: Document | None) -> Document | None:
        main, copy = self.main.document, self.copy.document
        if main is None or copy is None:
            return copy or main
        if _follows(main, copy) or (other and _are_one(main, other) and main.count == copy.count):
            return main
        return copy

    def is_whole(self, truth: Document) -> bool:
        """Whether both say it already."""
        return all(
            half.document is not None and _are_one(half.document, truth)
            for half in (self.main, self.copy)
        )


def _half(refs: Refs, key: str) -> Half:
    where, read = refs.where(key), refs.read_many([key])[key]
    try:
        document = refs.parse(key, read)
        refs.roots(key, document)  # it does not contradict itself
        return Half(where, read, None if read is None else document, "")
    except CorruptRef as error:
        return Half(where, read, None, str(error))
    except OSError as error:
        return Half(where, read, None, f"ref {where}: {error}")


def _follows(main: Document, copy: Document) -> bool:
    """Whether a document is what its copy says, or what became of it."""
    return main.knows(copy) and (main.count > copy.count or _are_one(main, copy))


def _are_one(one: Document, other: Document) -> bool:
    """Whether two are of one write, no matter what is claimed."""
    return (one.count, one.tokens, one.value) == (other.count, other.tokens, other.value)
