"""How documents and their copies are written."""

from __future__ import annotations

import json
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from model_store import refs
from model_store.errors import Unsure
from model_store.files import atomic, objects
from model_store.names import copy_key
from tests.model_store.simulation import bucket
from tests.model_store.simulation.mutants.mutant import Mutant


def _unanswered_writes_are_repeated(stack: ExitStack) -> None:
    """A writer that got no answer does not look whether its write took effect."""
    stack.enter_context(patch.object(refs, "_took_effect", lambda *_: False))


def _contents_repeat(stack: ExitStack) -> None:
    """An entity tag is of what a document says, and so looks as it did before."""

    def without(data: bytes) -> str:
        try:
            said = json.loads(data)
            said = [said["value"], sorted(said["claims"].values())]
        except (ValueError, KeyError, TypeError):
            return tag(data)
        return tag(json.dumps(said, sort_keys=True).encode())

    tag = bucket._tag
    stack.enter_context(patch.object(bucket, "_tag", without))


def _swaps_are_repeated(stack: ExitStack) -> None:
    """The client repeats a compare-and-swap that was not answered."""
    swap = objects.ObjectStorage.replace

    def without(self: Any, *arguments: Any) -> bool:
        once, self._once = self._once, self._store
        try:
            return swap(self, *arguments)
        finally:
            self._once = once

    stack.enter_context(patch.object(objects.ObjectStorage, "replace", without))


def _unlocked(stack: ExitStack) -> None:
    """A compare-and-swap on a disk is not locked."""
    stack.enter_context(patch.object(atomic, "locked", lambda *_, **__: nullcontext()))


def _copies_lag(stack: ExitStack) -> None:
    """What is acknowledged is not in the second copy of its document."""
    stack.enter_context(patch.object(refs.Refs, "_keep", lambda *_: None))


def _copies_go_back(stack: ExitStack) -> None:
    """Who is slow puts a second copy back to what the document said earlier."""

    def without(self: Any, key: str, document: Any, copy: Any) -> None:
        place = copy_key(key)
        data = replace(document, claims={}).to_bytes(place)
        while True:
            current = self._storage.read(place)
            with suppress(Unsure):
                if self._storage.replace(place, data, current.version if current else None):
                    return

    stack.enter_context(patch.object(refs.Refs, "_keep", without))


MUTANTS = {
    "tokens": Mutant(_unanswered_writes_are_repeated, seed=4003),
    "contents": Mutant(_contents_repeat, seed=152),
    "swap-once": Mutant(_swaps_are_repeated, seed=12147),
    "lock": Mutant(_unlocked, seed=90),
    "copies": Mutant(_copies_lag, seed=0),
    "copies-forward": Mutant(_copies_go_back, seed=3106),
}
