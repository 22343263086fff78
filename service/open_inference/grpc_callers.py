"""What all gRPC calls may take together, and what each known caller may take.

Law: before access is checked, a call waits for nothing, and only the latest of these calls stay
open. After that, a caller has at most half of all calls, connections and memory, so that no caller
can take all of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from service.open_inference.errors import TooManyCalls
from service.open_inference.grpc_connections import Connection, most_connections
from service.settings import Settings

Context = grpc.aio.ServicerContext[Any, Any]
MESSAGE_OVERHEAD = 1 << 16  # of a request around its tensors
LOOKAHEAD = 32 << 10  # bytes that gRPC takes of a message before it is asked for
UNKNOWN_CALLS = 512  # open at once whose caller is not known
LONG_ANSWER = 1 << 16  # bytes; shorter ones are not counted


def longest_message(settings: Settings) -> int:
    """Bytes; of a compressed message those that it inflates to."""
    return settings.max_body_bytes + MESSAGE_OVERHEAD


@dataclass
class Caller:
    """What one caller has open."""

    name: str
    turns: asyncio.Semaphore  # to receive a message
    calls: int = 0
    connections: Counter[Connection] = field(default_factory=Counter)
    answers: int = 0  # bytes of long answers that it has not read yet


class Callers:
    """All callers of one gateway; for the event loop's thread."""

    def __init__(self, settings: Settings) -> None:
        """Half of the memory for bodies is for messages that are arriving."""
        memory = settings.upload_memory
        messages = max(1, memory // 2 // longest_message(settings))
        self._turns = asyncio.Semaphore(messages)
        self._turns_each = max(1, messages // 2)
        self._most_calls = max(2, min(settings.queue_total, memory // 8 // LOOKAHEAD))
        self._most_connections = max(2, most_connections())
        self._most_answers = memory // 8
        self._unknown: OrderedDict[object, Connection] = OrderedDict()
        self._callers: dict[str, Caller] = {}
        self._calls = self._answers = 0

    @contextmanager
    def arrived(self, connection: Connection) -> Iterator[object]:
        """Around a call whose caller is not known yet; gives its key.

        Such a call stays open only while its client does not read the answer. If too many are
        open, the connection of the oldest is closed.
        """
        if len(self._unknown) >= UNKNOWN_CALLS:
            _, oldest = self._unknown.popitem(last=False)
            oldest.abort()
        key = object()
        self._unknown[key] = connection
        try:
            yield key
        finally:
            self.settled(key)

    def settled(self, key: object) -> None:
        """From now on something else bounds this call."""
        self._unknown.pop(key, None)

    @contextmanager
    def admitted(self, name: str, connection: Connection) -> Iterator[Caller]:
        """Around a call of this caller. Raises TooManyCalls."""
        if self._calls >= self._most_calls:
            raise TooManyCalls(f"{self._calls} calls are open already", retry_after_s=1)
        caller = self._callers.get(name)
        if caller is None:
            caller = self._callers[name] = Caller(name, asyncio.Semaphore(self._turns_each))
        if caller.calls >= self._most_calls // 2:
            raise TooManyCalls(f"{caller.calls} calls of yours are open already", retry_after_s=1)
        others = len(caller.connections)
        if connection not in caller.connections and others >= self._most_connections // 2:
            raise TooManyCalls(f"{others} connections of yours have calls open", retry_after_s=1)
        self._count_call(caller, connection, 1)
        try:
            yield caller
        finally:
            self._count_call(caller, connection, -1)
            if not caller.calls:
                self._callers.pop(name)

    def _count_call(self, caller: Caller, connection: Connection, more: int) -> None:
        self._calls += more
        caller.calls += more
        caller.connections[connection] += more
        if not caller.connections[connection]:
            del caller.connections[connection]
        connection.count_call(more)

    @asynccontextmanager
    async def turn(self, caller: Caller) -> AsyncIterator[None]:
        """Waits until this caller may send one more message, and then until any caller may."""
        async with caller.turns, self._turns:
            yield

    @contextmanager
    def answering(self, caller: Caller, size: int) -> Iterator[None]:
        """Counts an answer of `size` bytes while it is sent. Raises TooManyCalls."""
        counted = size if size > LONG_ANSWER else 0
        for held, most in (
            (caller.answers, self._most_answers // 2),
            (self._answers, self._most_answers),
        ):
            if counted and held and held + counted > most:
                raise TooManyCalls(f"{held} bytes of answers wait to be read", retry_after_s=1)
        caller.answers += counted
        self._answers += counted
        try:
            yield
        finally:
            caller.answers -= counted
            self._answers -= counted
