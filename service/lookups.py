"""Threads for what is said about tasks: never those that loads or answers need.

Each kind of question has a few of its own, and a bounded number of questions that wait for them: a
store that is slow, or a client that asks without end, costs others who ask the same kind, and
nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

from service.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")
WAITING = 64  # questions, with those being answered


class Lookups:
    """One kind of question; for the event loop's thread."""

    def __init__(self, kind: str, threads: int, waiting: int = WAITING) -> None:
        """`kind` is told to who is refused; `waiting` is the bound, with those being answered."""
        self._kind = kind
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=kind)
        self._most = waiting
        self._waiting = 0

    async def ask(self, look: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What `look` returns or raises; raises Unavailable at once where too many wait."""
        if self._waiting >= self._most:
            raise Unavailable(
                f"{self._waiting} requests for {self._kind} wait already", retry_after_s=1
            )
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, lambda: look(*arguments, **named))
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Drops what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Shared(Generic[T]):
    """One answer at a time, for all who ask while it is made; for the event loop's thread.

    So however many ask, one thread makes one answer after another.
    """

    def __init__(self, kind: str, make: Callable[[], T]) -> None:
        """`make` runs in a thread that is named after `kind`."""
        self._make = make
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=kind)
        self._made: asyncio.Future[T] | None = None

    async def ask(self) -> T:
        """What is being made, begun if need be. Raises what `make` raises."""
        if self._made is None or self._made.done():
            self._made = asyncio.get_running_loop().run_in_executor(self._pool, self._make)
        return await asyncio.shield(self._made)  # one who gives up ends it for nobody else

    def close(self) -> None:
        """Drops what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
