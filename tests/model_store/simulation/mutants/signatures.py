"""Signatures that come, and go with what they vouch for."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from model_store import reading, writing
from model_store.files.gc_handshake import Handshake
from model_store.names import signature_key
from model_store.upkeep import gc
from tests.model_store.simulation.mutants.mutant import Mutant


def _signatures_stay(stack: ExitStack) -> None:
    """A gc forgets the signatures of what it removed only when it has ended."""
    forget, end = gc.Collector._forget_signatures, Handshake.end

    def later(self: Any, *arguments: Any) -> None:
        self._handshake.waiting = lambda: forget(self, *arguments)

    def ended(self: Any, *arguments: Any) -> None:
        end(self, *arguments)
        self.__dict__.pop("waiting", lambda: None)()

    stack.enter_context(patch.object(gc.Collector, "_forget_signatures", later))
    stack.enter_context(patch.object(Handshake, "end", ended))


def _any_signatures_go(stack: ExitStack) -> None:
    """A gc forgets signatures although another signer has come since it looked."""

    def without(self: Any, doomed: Any, before: float) -> None:
        for signed in doomed:
            key = signature_key(signed)
            entry = self._storage.stat(key) if signed in self._signatures else None
            if entry and entry.modified <= before:
                self._refs.swap(key, lambda d: d.value and replace(d, value=None))

    stack.enter_context(patch.object(gc.Collector, "_forget_signatures", without))


def _signatures_go_late(stack: ExitStack) -> None:
    """A gc gives its lease back although its removal of signatures was not answered."""
    forget = gc.Collector._forget_signatures

    def without(self: Any, *arguments: Any) -> None:
        self._lease._unanswered = False
        forget(self, *arguments)

    stack.enter_context(patch.object(gc.Collector, "_forget_signatures", without))


def _signers_look_twice(stack: ExitStack) -> None:
    """A signer reads the document once for what to replace, and once more for what is in it."""
    add = writing.Writer.add_signature

    def without(self: Any, manifest: Any, signature: Any) -> None:
        def again(_: Any) -> Any:
            found = self._refs.manifest(signature_key(manifest))
            return reading.Reader.signatures_in(self._reader, found)

        self._reader.signatures_in = again  # of this process alone
        try:
            add(self, manifest, signature)
        finally:
            del self._reader.signatures_in

    stack.enter_context(patch.object(writing.Writer, "add_signature", without))


MUTANTS = {
    "signatures-first": Mutant(_signatures_stay, seed=20829),
    "signatures-same": Mutant(_any_signatures_go, seed=30065),
    "signatures-lease": Mutant(_signatures_go_late, seed=228),
    "signatures-once": Mutant(_signers_look_twice, seed=46737),
}
