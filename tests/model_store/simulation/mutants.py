"""The protocol without one of its protective steps: with each of them a loss has to be found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from model_store import blobs, gc, leases, refs, writing
from model_store.gc_handshake import Handshake


def _claims_are_not_asked_for(stack: ExitStack) -> None:
    """A writer refers to a manifest although a gc has taken its claim back."""
    swap = refs.Refs.swap

    def without(self: Any, key: str, change: Any, *, claim: str | None = None) -> Any:
        def changed(document: Any) -> Any:
            found = change(document)
            rest = {t: d for t, d in document.claims.items() if t != claim}
            return found and replace(found, claims=rest)

        return swap(self, key, change if claim is None else changed)

    stack.enter_context(patch.object(refs.Refs, "swap", without))


def _gc_sees_no_claims(stack: ExitStack) -> None:
    """A gc takes no account of what writers are about to refer to."""
    read = gc.Collector._all_documents

    def documents(self: Any) -> Iterator[Any]:
        for key, document in read(self):
            yield key, replace(document, claims={})

    stack.enter_context(patch.object(gc.Collector, "_all_documents", documents))


def _writers_do_not_object(stack: ExitStack) -> None:
    """A writer does not look at what a gc is about to remove."""
    stack.enter_context(patch.object(Handshake, "spare", lambda self, keys: True))


def _gc_looks_once(stack: ExitStack) -> None:
    """A gc dooms what it has proposed without another look."""
    doom = Handshake.doom

    def all_of_them(self: Any, keys: Any) -> Any:
        proposed = gc_state(self)
        return doom(self, proposed)

    def gc_state(self: Any) -> Any:
        from model_store.gc_handshake import KEY, _parse

        return _parse(self._storage.read(KEY)).keys

    stack.enter_context(patch.object(Handshake, "doom", all_of_them))


def _the_lease_is_given_back(stack: ExitStack) -> None:
    """A gc whose deletions were not answered gives its lease back."""
    stack.enter_context(patch.object(leases.ObjectLease, "unanswered", lambda self: nullcontext()))


def _unanswered_writes_are_repeated(stack: ExitStack) -> None:
    """A writer that got no answer does not look whether its write took effect."""
    stack.enter_context(patch.object(refs, "_took_effect", lambda *_: False))


def _names_are_not_synced(stack: ExitStack) -> None:
    """A publish does not make the names of its blobs durable."""
    stack.enter_context(patch.object(blobs.Blobs, "settle", lambda self: None))


def _sizes_are_believed(stack: ExitStack) -> None:
    """The sizes in a manifest are what the storage says of files."""

    def size(self: Any, digest: Any) -> int:
        entry = self._storage.stat(blobs.key_of(digest))
        if entry is None:
            raise self._not_found(digest)
        return entry.size

    def renew(self: Any, digests: Any) -> Any:
        keys = {blobs.key_of(digest): digest for digest in digests}
        sizes = self._storage.touch(keys)
        while not self._handshake.spare(keys):
            sizes = self._storage.touch(keys)
        return [keys[key] for key in sizes]

    stack.enter_context(patch.object(blobs.Blobs, "size", size))
    stack.enter_context(patch.object(blobs.Blobs, "renew", renew))


def _missing_blobs_are_not_noticed(stack: ExitStack) -> None:
    """A writer does not look whether what it refers to is there."""
    stack.enter_context(patch.object(writing.Writer, "_all_there", lambda self, needs: True))


MUTANTS: dict[str, Callable[[ExitStack], None]] = {
    "claims": _claims_are_not_asked_for,
    "gc-claims": _gc_sees_no_claims,
    "objections": _writers_do_not_object,
    "second-look": _gc_looks_once,
    "lease": _the_lease_is_given_back,
    "tokens": _unanswered_writes_are_repeated,
    "sync": _names_are_not_synced,
    "sizes": _sizes_are_believed,
    "presence": _missing_blobs_are_not_noticed,
}


@contextmanager
def without(step: str) -> Iterator[None]:
    """While the code does not do this."""
    with ExitStack() as stack:
        MUTANTS[step](stack)
        yield
