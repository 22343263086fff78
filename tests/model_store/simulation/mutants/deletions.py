"""What keeps a deletion that is executed late from what was put again."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

from model_store.files import leases, local, objects
from model_store.files.protocol import Unneeded
from tests.model_store.simulation.mutants.mutant import Mutant


def _there_are_several_gcs(stack: ExitStack) -> None:
    """A gc, and a writer that waits for one, goes on although another runs."""
    for storage in (local.LocalStorage, objects.ObjectStorage):
        alone = nullcontext(Unneeded())
        stack.enter_context(patch.object(storage, "alone", lambda *_, alone=alone, **__: alone))


def _deletions_are_repeated(stack: ExitStack) -> None:
    """The client repeats a deletion that was not answered, and it is taken for done."""
    remove = objects.ObjectStorage.remove

    def without(self: Any, keys: Any, lease: Any) -> None:
        once, self._once = self._once, self._store
        try:
            remove(self, keys, lease)
        finally:
            self._once = once

    stack.enter_context(patch.object(objects.ObjectStorage, "remove", without))


def _the_lease_is_given_back(stack: ExitStack) -> None:
    """A gc whose deletions were not answered gives its lease back."""
    stack.enter_context(patch.object(leases.ObjectLease, "unanswered", lambda self: nullcontext()))


def _leases_are_not_looked_at(stack: ExitStack) -> None:
    """A gc does not look at the clock just before each deletion."""
    stack.enter_context(patch.object(leases.ObjectLease, "require", lambda self: None))


def _leases_are_short(stack: ExitStack) -> None:
    """The lease of a gc does not outlast its late deletions."""
    init = leases.ObjectLease.__init__

    def without(self: Any, storage: Any, key: str, lasts_s: float = 0.0) -> None:
        init(self, storage, key, leases.LEASE_S)

    stack.enter_context(patch.object(leases.ObjectLease, "__init__", without))


MUTANTS = {
    "one-gc": Mutant(_there_are_several_gcs, seed=409),
    "delete-once": Mutant(_deletions_are_repeated, seed=832),
    "lease": Mutant(_the_lease_is_given_back, seed=4127),
    "lease-look": Mutant(_leases_are_not_looked_at, seed=1711),
    "lease-lasts": Mutant(_leases_are_short, seed=8235),
}
