"""What is on the disk before something is acknowledged."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from model_store import blobs
from model_store.files import atomic, local
from tests.model_store.simulation.mutants.mutant import Mutant


def _names_are_not_synced(stack: ExitStack) -> None:
    """A publish does not make the names of its blobs durable."""
    stack.enter_context(patch.object(blobs.Blobs, "settle", lambda self: None))


def _contents_are_not_synced(stack: ExitStack) -> None:
    """The content of a file is not made durable before the file gets its name."""

    class System:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fsync(self, descriptor: int) -> None:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.fsync(descriptor)

    stack.enter_context(patch.object(atomic, "os", System()))


def _swaps_are_not_synced(stack: ExitStack) -> None:
    """A compare-and-swap on a disk is acknowledged before it is durable."""
    sync = atomic.sync_directory

    def without(path: Any) -> None:
        if "refs" not in path.parts:
            sync(path)

    stack.enter_context(patch.object(atomic, "sync_directory", without))


def _unchanged_is_durable(stack: ExitStack) -> None:
    """What is found as it should be is taken for durable."""
    settle = local.LocalStorage.settle

    def without(self: Any, directory: str) -> None:
        if not directory.startswith("refs/"):
            settle(self, directory)

    stack.enter_context(patch.object(local.LocalStorage, "settle", without))


MUTANTS = {
    "sync": Mutant(_names_are_not_synced, seed=142),
    "sync-data": Mutant(_contents_are_not_synced, seed=10),
    "sync-swap": Mutant(_swaps_are_not_synced, seed=10),
    "sync-same": Mutant(_unchanged_is_durable, seed=33),
}
