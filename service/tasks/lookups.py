"""Threads for questions about tasks, apart from those for loads and answers.

Each kind of question has a few threads of its own, and a bounded number of waiting questions. So a
slow store, or a client that asks without end, delays only questions of the same kind. While the
store hangs, nobody waits for the threads that it holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, ParamSpec, TypeVar

from service.errors import Unavailable
from service.tasks.reasons import reason
from service.tasks.store_health import StoreAway, StoreHealth

P = ParamSpec("P")
T = TypeVar("T")
WAITING = 64  # questions, with those being answered


class Lookups:
    """One kind of question; for the event loop's thread."""

    def __init__(
        self, kind: str, threads: int, health: StoreHealth, waiting: int = WAITING
    ) -> None:
        """`kind` is named in refusals; `waiting` is the most open questions."""
        self._kind = kind
        self._health = health
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=kind)
        self._threads, self._most = threads, waiting
        self._asked: set[Future[Any]] = set()  # not answered yet

    async def ask(self, look: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What `look` returns or raises.

        Raises Unavailable if too many wait, or the store hangs.
        """
        hanging, waiting = self._health.hanging, len(self._asked)
        if waiting >= (self._threads if hanging else self._most):
            why = ", as the store does not answer" if hanging else ""
            raise Unavailable(
                f"{waiting} requests for {self._kind} wait already{why}", retry_after_s=1
            )
        work = self._pool.submit(look, *arguments, **named)
        self._asked.add(work)
        work.add_done_callback(self._asked.discard)
        try:
            return await asyncio.wrap_future(self._health.unless_it_hangs(work))
        except StoreAway as error:
            raise Unavailable(
                f"the store cannot be read: {reason(error)}", retry_after_s=1
            ) from None
        finally:
            work.cancel()  # what nobody waits for need not begin
            del work  # its error holds this frame

    def close(self) -> None:
        """Drops what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Shared(Generic[T]):
    """One answer for all who ask while it is made; for the event loop's thread.

    So one thread makes one answer after another, for any number of questions.
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
