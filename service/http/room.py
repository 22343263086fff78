"""Something limited, such as memory, of which each holder leaves a part to others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from starlette.types import Scope

from service.access import ANONYMOUS, LOCAL
from service.errors import Unavailable


class Holder(NamedTuple):  # which is hashed and compared often, and by C
    """Who is charged for what a request takes."""

    name: str  # as refusals say it
    weight: float  # it may have this many times what it leaves free


def caller(token: str, host: str | None) -> str:
    """Who is charged as the caller: the name of the token; without one, the address."""
    if token not in (ANONYMOUS, LOCAL.name) or host is None:
        return f"token {token!r}"
    return f"address {host}"


def caller_of(token: str, scope: Scope) -> str:
    """The same of a request over HTTP."""
    client = scope.get("client")
    return caller(token, client and client[0])


def holders(tasks: Sequence[str], caller: str) -> Sequence[Holder]:
    """Who is charged for a request: its tasks and its caller.

    One caller alone can have a third of all, one task half of all. So no caller takes all that a
    task may have, and no task takes all that there is.
    """
    return [Holder(f"task {task[:100]!r}", 1.0) for task in tasks] + [Holder(caller, 0.5)]


class Room:
    """A limited amount of something, shared between holders; for any thread.

    A holder may have its weight times what is then left free: dynamic thresholds (Choudhury and
    Hahne 1998). So some holders never take the room of all others. The first request of a holder
    may have all that is free.
    """

    def __init__(self, limit: int, unit: str) -> None:
        """`unit` is what refusals count in."""
        self._limit = limit
        self._unit = unit
        self._held = 0
        self._by_holder: Counter[Holder] = Counter()
        self._lock = threading.RLock()  # a coroutine may be collected, and give, amid a take

    @property
    def free(self) -> int:
        """How much is taken by nobody."""
        return self._limit - self._held

    def take(self, size: int, of: Sequence[Holder] = (), own: int = 0) -> None:
        """Takes `size` more for a request that holds `own` already.

        Raises Unavailable if there is none.
        """
        with self._lock:
            free = self._limit - self._held
            if size > free:
                raise self._full("all together have", self._held)
            for holder in of:
                has = self._by_holder[holder]
                if has > own and has + size > holder.weight * free:
                    raise self._full(f"{holder.name} has", has)
            self._count(size, of)

    def give(self, size: int, of: Sequence[Holder] = ()) -> None:
        """Takes back a `take`."""
        with self._lock:
            self._held -= size
            for holder in of:
                self._by_holder[holder] -= size
                if not self._by_holder[holder]:
                    del self._by_holder[holder]

    def _count(self, size: int, of: Sequence[Holder]) -> None:
        self._held += size
        for holder in of:
            self._by_holder[holder] += size

    @contextmanager
    def holding(self, size: int, of: Sequence[Holder] = ()) -> Iterator[None]:
        """Holds `size` during the work; raises Unavailable if there is no room."""
        self.take(size, of)
        try:
            yield
        finally:
            self.give(size, of)

    def _full(self, who: str, has: int) -> Unavailable:
        return Unavailable(
            f"overloaded: {who} {has} of {self._limit} {self._unit}; try again later",
            retry_after_s=1,
        )
