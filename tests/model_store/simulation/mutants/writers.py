"""What a writer does before it refers to something."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from model_store import blobs, refs, writing
from model_store.files import gc_handshake
from model_store.files.gc_handshake import Handshake
from model_store.refs import Claim, Copy, Document
from tests.model_store.simulation.mutants.mutant import Mutant


def _claims_are_not_asked_for(stack: ExitStack) -> None:
    """A writer refers to a manifest although a gc has taken its claim back."""
    swap = refs.Refs._swap

    def without(self: Any, key: str, change: Any, copy: Any, claim: str | None = None) -> Any:
        def changed(document: Any) -> Any:
            found = change(document)
            rest = {t: d for t, d in document.claims.items() if t != claim}
            return found and replace(found, claims=rest)

        return swap(self, key, change if claim is None else changed, copy)

    stack.enter_context(patch.object(refs.Refs, "_swap", without))


def _claimed_after_touching(stack: ExitStack) -> None:
    """A writer touches blobs, and looks for a gc, before it claims them."""
    refer = writing.Writer._refer

    def without(self: Any, key: str, needs: Any, *rest: Any, **named: Any) -> Any:
        for data in needs.small:
            self._blobs.put(data)
        looked = self._all_there(needs)
        self._all_there = lambda _: looked  # of this process alone
        try:
            return refer(self, key, needs, *rest, **named)
        finally:
            del self._all_there

    stack.enter_context(patch.object(writing.Writer, "_refer", without))


def _writers_do_not_object(stack: ExitStack) -> None:
    """A writer does not look at what a gc is about to remove."""
    stack.enter_context(patch.object(Handshake, "spare", lambda self, keys: True))


def _waited_for_is_there(stack: ExitStack) -> None:
    """A writer that waited for a gc does not look whether its blobs are still there."""
    spare = Handshake.spare

    def without(self: Any, keys: Any) -> bool:
        spare(self, keys)
        return True

    stack.enter_context(patch.object(Handshake, "spare", without))


def _blobs_are_looked_for_first(stack: ExitStack) -> None:
    """A writer looks whether blobs are there before it looks for a gc."""

    def renew(self: Any, digests: Any, said: Any = None) -> Any:
        keys = {blobs.key_of(digest): digest for digest in digests}
        self._storage.touch(keys)
        sizes = self._storage.sizes(keys)
        while not self._handshake.spare(keys):
            self._storage.touch(keys)
            sizes = self._storage.sizes(keys)
        return [keys[key] for key in sizes]

    stack.enter_context(patch.object(blobs.Blobs, "renew", renew))


def _missing_blobs_are_not_noticed(stack: ExitStack) -> None:
    """A writer does not look whether what it refers to is there."""
    stack.enter_context(patch.object(writing.Writer, "_all_there", lambda self, needs: True))


def _what_is_not_seen_is_nothing(stack: ExitStack) -> None:
    """A writer that does not see the file of the gc takes it that there is no gc."""
    parse = gc_handshake._parse

    def without(current: Any) -> Any:
        return parse(current) or gc_handshake._State()

    stack.enter_context(patch.object(gc_handshake, "_parse", without))


def _sizes_are_believed(stack: ExitStack) -> None:
    """The sizes in a manifest are what the storage says of files."""

    def size(self: Any, digest: Any) -> int:
        entry = self._storage.stat(blobs.key_of(digest))
        if entry is None:
            raise self._not_found(digest)
        return entry.size

    def renew(self: Any, digests: Any, said: Any = None) -> Any:
        keys = {blobs.key_of(digest): digest for digest in digests}
        self._storage.touch(keys)
        while not self._handshake.spare(keys):
            self._storage.touch(keys)
        sizes = self._storage.sizes(keys)
        return [keys[key] for key in sizes]

    stack.enter_context(patch.object(blobs.Blobs, "size", size))
    stack.enter_context(patch.object(blobs.Blobs, "renew", renew))


def _nothing_to_remove_is_done(stack: ExitStack) -> None:
    """A task that is not seen counts as removed."""

    def without(self: Any, task: str) -> None:
        self._reader.existing(task)
        writing.announce(self._storage, task)
        self._change(task, lambda found: found.without(found.versions))

    stack.enter_context(patch.object(writing.Writer, "remove_task", without))


def _gcs_are_not_asked_after(stack: ExitStack) -> None:
    """A writer relies on what the index needs also while a gc is about to remove something."""
    stack.enter_context(patch.object(Handshake, "is_idle", lambda self: True))


def _kept_before_the_claim(stack: ExitStack) -> None:
    """A writer relies on what documents needed before it claimed that."""
    refer = writing.Writer._refer

    def without(self: Any, key: str, needs: Any, *rest: Any, **named: Any) -> Any:
        left = self._not_kept(needs, key, Claim("", Copy(Document(), None), self._refs.read(key)))
        self._not_kept = lambda *_: left  # of this process alone
        try:
            return refer(self, key, needs, *rest, **named)
        finally:
            del self._not_kept

    stack.enter_context(patch.object(writing.Writer, "_refer", without))


MUTANTS = {
    "claims": Mutant(_claims_are_not_asked_for, seed=184),
    "claim-first": Mutant(_claimed_after_touching, seed=4),
    "objections": Mutant(_writers_do_not_object, seed=248),
    "wait": Mutant(_waited_for_is_there, seed=3959),
    "looked-for-last": Mutant(_blobs_are_looked_for_first, seed=62529),
    "presence": Mutant(_missing_blobs_are_not_noticed, seed=95),
    "gc-seen": Mutant(_what_is_not_seen_is_nothing, seed=50177),
    "sizes": Mutant(_sizes_are_believed, seed=19),
    "gc-idle": Mutant(_gcs_are_not_asked_after, seed=None),
    "kept-since": Mutant(_kept_before_the_claim, seed=9800),
    "removals": Mutant(_nothing_to_remove_is_done, seed=42585),
}
