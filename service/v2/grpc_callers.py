"""What gRPC calls may take together, and each caller once it is known who calls.

Law: before access is checked a call waits for nothing, and of those that have not ended only the
latest stay. From then on a caller has at most half of the calls, connections and memory that there
are in all, so that none can take all of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from service.settings import Settings
from service.v2.errors import TooManyCalls
from service.v2.grpc_connections import Connection, most_connections

Context = grpc.aio.ServicerContext[Any, Any]
MESSAGE_OVERHEAD = 1 << 16  # of a request around its tensors
LOOKAHEAD = 65535  # bytes that gRPC takes of a message before it is asked for, as HTTP/2 has it
UNKNOWN_CALLS = 512  # open at once without that anybody has asked who calls
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
    answers: int = 0  # bytes of long ones that it has not read yet


def when_done(context: Context, work: Callable[[], None]) -> None:
    """Does it when the call has ended, on both sides."""
    context.add_done_callback(lambda _: work())  # pyright: ignore[reportArgumentType]


class Callers:
    """All callers of one gateway; for the event loop's thread."""

    def __init__(self, settings: Settings) -> None:
        """Half of the memory for bodies is for messages that are being received."""
        memory = settings.upload_memory
        messages = max(1, memory // 2 // longest_message(settings))
        self._turns = asyncio.Semaphore(messages)
        self._turns_each = max(1, messages // 2)
        self._most_calls = max(2, min(settings.queue_total, memory // 8 // LOOKAHEAD))
        self._most_connections = max(2, most_connections())
        self._most_answers = memory // 8
        self._unknown: OrderedDict[Context, Connection] = OrderedDict()
        self._callers: dict[str, Caller] = {}
        self._calls = self._answers = 0

    def arrived(self, context: Context, connection: Connection) -> None:
        """A call has begun, and nobody has asked who calls.

        Such a call stays open only while its client does not read the answer: of too many, the
        oldest one's connection is closed.
        """
        if len(self._unknown) >= UNKNOWN_CALLS:
            _, oldest = self._unknown.popitem(last=False)
            oldest.abort()
        self._unknown[context] = connection
        when_done(context, lambda: self.kept(context))

    def kept(self, context: Context) -> None:
        """The call is bounded by something else."""
        self._unknown.pop(context, None)

    def admit(self, name: str, context: Context, connection: Connection) -> Caller:
        """The call is this caller's until it ends. Raises TooManyCalls."""
        caller = self._callers.get(name)
        if self._calls >= self._most_calls:
            raise TooManyCalls(f"{self._calls} calls are open already", retry_after_s=1)
        if caller is None:
            caller = self._callers[name] = Caller(name, asyncio.Semaphore(self._turns_each))
        if caller.calls >= self._most_calls // 2:
            raise TooManyCalls(f"{caller.calls} calls of yours are open already", retry_after_s=1)
        others = len(caller.connections)
        if connection not in caller.connections and others >= self._most_connections // 2:
            raise TooManyCalls(f"{others} connections of yours have calls open", retry_after_s=1)
        self.kept(context)
        self._calls += 1
        caller.calls += 1
        caller.connections[connection] += 1
        connection.calls += 1
        when_done(context, lambda: self._ended(caller, connection))
        return caller

    def _ended(self, caller: Caller, connection: Connection) -> None:
        self._calls -= 1
        caller.calls -= 1
        caller.connections[connection] -= 1
        if not caller.connections[connection]:
            del caller.connections[connection]
        connection.call_ended()
        if not caller.calls:
            self._callers.pop(caller.name, None)

    @asynccontextmanager
    async def turn(self, caller: Caller) -> AsyncIterator[None]:
        """Waits until this caller may receive one more message, and then until anybody may."""
        async with caller.turns, self._turns:
            yield

    def answering(self, caller: Caller, size: int, context: Context) -> None:
        """Counts an answer until its call has ended. Raises TooManyCalls."""
        if size <= LONG_ANSWER:
            return
        for held, most in (
            (caller.answers, self._most_answers // 2),
            (self._answers, self._most_answers),
        ):
            if held and held + size > most:
                raise TooManyCalls(f"{held} bytes of answers wait to be read", retry_after_s=1)
        self._count(caller, size)
        when_done(context, lambda: self._count(caller, -size))

    def _count(self, caller: Caller, size: int) -> None:
        caller.answers += size
        self._answers += size
