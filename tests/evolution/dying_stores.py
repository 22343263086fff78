"""Stores whose process dies at a chosen call of the storage, as a kill between two of them does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from model_store import ModelStore

WRITES = ("create", "replace", "touch", "settle", "remove")


class Killed(BaseException):
    """In place of SIGKILL; nothing that is written after it reaches the store."""


@contextmanager
def dying(directory: Path, at: int) -> Iterator[tuple[ModelStore, list[tuple[str, str]]]]:
    """The store, and its writes so far: the one of number `at`, from 0, and all later ones fail."""
    store, writes = ModelStore(directory), []

    def mortal(name: str, write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if len(writes) >= at:
                raise Killed
            writes.append((name, str(arguments[0])))
            return write(*arguments)

        return call

    for name in WRITES:
        setattr(store.storage, name, mortal(name, getattr(store.storage, name)))
    with suppress(Killed):
        yield store, writes


def writes_of(directory: Path, work: Callable[[ModelStore], object]) -> list[tuple[str, str]]:
    """The writes of a piece of work that nothing kills: (method, first argument, often a key)."""
    with dying(directory, 1 << 30) as (store, writes):
        work(store)
    return writes
