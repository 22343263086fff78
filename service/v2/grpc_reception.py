"""Where gRPC calls come in: who calls, whether he may, and his messages one at a time."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import grpc

from service.access import ANONYMOUS, LOCAL, Grants
from service.errors import ClientGone, GatewayError, InternalError, Unavailable, UploadTimeout
from service.http.exchanges import REQUEST_ID, TRACE_CONTEXT, request_id
from service.runtime import Runtime
from service.telemetry.requests import Exchange, exchanged
from service.v2.grpc_callers import Caller, Callers, Context, longest_message, when_done
from service.v2.grpc_connections import READ_S, Connection, Connections

logger = logging.getLogger(__name__)
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
Refusal = tuple[int, grpc.StatusCode, str, tuple[tuple[str, str], ...]]
Messages = AsyncIterator[bytes]
T = TypeVar("T")


def texts(context: Context) -> dict[str, str]:
    """The metadata that came with a call, but for binary ones."""
    return dict(_pairs(context))


def _pairs(context: Context) -> list[tuple[str, str]]:
    found = context.invocation_metadata() or ()
    return [(name, value) for name, value in found if isinstance(value, str)]


def refusal(error: Exception) -> Refusal:
    """Of HTTP the status, of gRPC the code, its text and trailing metadata."""
    if not isinstance(error, GatewayError):
        logger.error("event=grpc_crash", exc_info=error)
        error = InternalError("an unexpected error; the server's log has the cause")
    metadata: tuple[tuple[str, str], ...] = ()
    if error.retry_after_s is not None:
        metadata = (("retry-after", str(max(1, math.ceil(error.retry_after_s)))),)
    code = CODES.get(error.status, grpc.StatusCode.INTERNAL)
    return error.status, code, error.detail, metadata


class Reception:
    """Of one gateway; for the event loop's thread."""

    def __init__(self, runtime: Runtime, connections: Connections) -> None:
        self.runtime = runtime
        self._connections = connections
        self._callers = Callers(runtime.settings)
        self._longest = longest_message(runtime.settings)

    @property
    def limit_s(self) -> float:
        """The longest that a client may keep a call waiting."""
        return self.runtime.settings.deadline_ms / 1e3

    def arrived(self, context: Context) -> Connection:
        """A call has begun. Raises ClientGone if its connection has closed meanwhile."""
        connection = self._connections.of(context.peer())
        if connection is None:
            raise ClientGone("the connection has closed")
        self._callers.arrived(context, connection)
        return connection

    def kept(self, context: Context) -> None:
        """The call may stay open though nobody asks who calls: something else bounds it."""
        self._callers.kept(context)

    def grants(self, context: Context, connection: Connection) -> Grants:
        """What the caller may do now; it counts as a request. Raises as `Access.grants`."""
        return self.runtime.access.grants(_pairs(context), connection.host)

    def admit(
        self, context: Context, connection: Connection, require: Callable[[Grants], None]
    ) -> tuple[Caller, Grants]:
        """Who calls, and what he may do. Raises what `require` does, and TooManyCalls."""
        grants = self.grants(context, connection)
        require(grants)
        name = grants.name
        if name in (ANONYMOUS, LOCAL.name):  # an address is all that tells them apart
            name = f"{name} {connection.host}"
        return self._callers.admit(name, context, connection), grants

    @asynccontextmanager
    async def message(self, caller: Caller, messages: Messages) -> AsyncIterator[bytes | None]:
        """Around the use of the next message; of None after the last. Its memory is counted.

        While it arrives, that is as much as a message may have: nobody knows its size. Raises
        UploadTimeout, or Unavailable where there is no room for it.
        """
        intake, held = self.runtime.intake, 0
        try:
            try:
                async with asyncio.timeout(self.limit_s), self._callers.turn(caller):
                    intake.take(self._longest)
                    held = self._longest
                    data = await anext(messages, None)
            except TimeoutError:
                if not held:
                    raise Unavailable(
                        "overloaded: too many messages arrive", retry_after_s=1
                    ) from None
                raise UploadTimeout(f"no message went within {self.limit_s:g} s") from None
            size = len(data or b"")
            intake.give(held - size)
            held = size
            yield data
        finally:
            intake.give(held)

    async def write(self, caller: Caller, context: Context, data: bytes) -> None:
        """One answer of several. Raises UploadTimeout if the client does not read it."""
        self.answering(caller, context, len(data))
        await self.soon(context.write(data))

    def answering(self, caller: Caller, context: Context, size: int) -> None:
        """An answer of so many bytes goes out. Raises TooManyCalls if too much is unread."""
        self._callers.answering(caller, size, context)

    def ends(self, context: Context, connection: Connection) -> None:
        """The handler is through; a client that does not read what it answered is closed."""
        timer = asyncio.get_running_loop().call_later(READ_S, connection.abort)
        when_done(context, timer.cancel)

    async def soon(self, step: Awaitable[T]) -> T:
        """Sending or receiving, for which the client is needed. Raises UploadTimeout."""
        try:
            async with asyncio.timeout(self.limit_s):
                return await step
        except TimeoutError:
            raise UploadTimeout(f"no message went within {self.limit_s:g} s") from None

    @contextmanager
    def noted(self, path: str, context: Context, *, quiet: bool = False) -> Iterator[Exchange]:
        """Around a call: an exchange, of which the access log and traces hear if there are any."""
        metadata = texts(context)
        connection = self._connections.of(context.peer())
        exchange = Exchange(
            method="POST",
            path=path,
            client=(connection.host if connection else None) or "",
            request_id=request_id(metadata.get(REQUEST_ID)),
            trace={name: metadata[name] for name in TRACE_CONTEXT if name in metadata},
            route=path,
        )
        with exchanged(() if quiet else self.runtime.reporting.reports, exchange):
            try:
                yield exchange
            except asyncio.CancelledError:  # how gRPC says that the client has left
                exchange.status = ClientGone.status
                raise
