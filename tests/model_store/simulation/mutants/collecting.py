"""What a gc does before it removes something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from model_store import refs
from model_store.files import gc_handshake
from model_store.files.gc_handshake import Handshake
from model_store.files.protocol import Unneeded
from model_store.upkeep import gc
from tests.model_store.simulation.mutants.mutant import Mutant


def _gc_sees_no_claims(stack: ExitStack) -> None:
    """A gc takes no account of what writers are about to refer to."""
    read = gc.Collector._all_documents

    def documents(self: Any, *, settled: bool) -> Iterator[Any]:
        for key, document in read(self, settled=settled):
            yield key, replace(document, claims={})

    stack.enter_context(patch.object(gc.Collector, "_all_documents", documents))


def _what_is_not_found_is_empty(stack: ExitStack) -> None:
    """A gc takes a document that is listed, and not found, for one that names nothing."""
    read = gc.Collector._all_documents

    def documents(self: Any, *, settled: bool) -> Iterator[Any]:
        for key, document in read(self, settled=settled):
            yield key, replace(document, count=document.count or 1)

    stack.enter_context(patch.object(gc.Collector, "_all_documents", documents))


def _gc_looks_once(stack: ExitStack) -> None:
    """A gc dooms what it has proposed without another look."""
    doom = Handshake.doom

    def all_of_them(self: Any, keys: Any) -> Any:
        proposed = gc_handshake._parse(self._storage.read(gc_handshake.KEY))
        return doom(self, proposed.keys if proposed else keys)

    stack.enter_context(patch.object(Handshake, "doom", all_of_them))


def _documents_are_not_synced(stack: ExitStack) -> None:
    """A gc removes what documents named before a change that is not durable yet."""
    remove = gc.Collector._remove

    def without(self: Any, *arguments: Any, **options: Any) -> Any:
        with patch.object(type(self._storage), "settle", lambda self, directory: None):
            return remove(self, *arguments, **options)

    stack.enter_context(patch.object(gc.Collector, "_remove", without))


def _gc_begins_without_its_lease(stack: ExitStack) -> None:
    """A gc does not look whether it is alone still before it begins."""
    begin = Handshake.begin
    stack.enter_context(patch.object(Handshake, "begin", lambda self, _: begin(self, Unneeded())))


def _grace_is_short(stack: ExitStack) -> None:
    """The grace of a gc may be shorter than late requests take."""
    run = gc.Collector.run

    def without(self: Any, grace_s: float, **named: Any) -> Any:
        return run(self, 0.0, **named)

    stack.enter_context(patch.object(gc.Collector, "run", without))


def _copies_are_more_durable(stack: ExitStack) -> None:
    """A gc copies documents that are not durable."""
    settled = refs.Refs.settled

    def without(self: Any, keys: Any) -> Iterator[Any]:
        self._settle = lambda _: None  # of this process alone
        yield from settled(self, keys)
        del self._settle

    stack.enter_context(patch.object(refs.Refs, "settled", without))


MUTANTS = {
    "gc-finds": Mutant(_what_is_not_found_is_empty, seed=32268),
    "gc-claims": Mutant(_gc_sees_no_claims, seed=184),
    "second-look": Mutant(_gc_looks_once, seed=29),
    "gc-sync": Mutant(_documents_are_not_synced, seed=3796),
    "gc-alone": Mutant(_gc_begins_without_its_lease, seed=17913),
    "grace": Mutant(_grace_is_short, seed=7818),
    "copies-durable": Mutant(_copies_are_more_durable, seed=14110),
}
