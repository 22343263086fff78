"""The entrance of gRPC calls: who calls, whether that is allowed, and one message at a time."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from service.access import Grants
from service.errors import ClientGone, GatewayError, InternalError, Unavailable, UploadTimeout
from service.http.room import caller, holders
from service.open_inference.grpc_callers import Caller, Callers, Context, longest_message
from service.open_inference.grpc_connections import READ_S, Connection, Connections
from service.request import Exchange, exchanged
from service.runtime import Runtime
from service.telemetry import audit
from service.telemetry.exchanges import REQUEST_ID, TRACE_CONTEXT, request_id

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


def handler(handle: Callable[[Any, Context], Awaitable[None]]) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler of any method: it reads and writes bytes itself, so that both can be bounded."""
    return grpc.stream_stream_rpc_method_handler(handle)  # pyright: ignore[reportArgumentType]


async def read(context: Context) -> bytes | None:
    """The next message, None after the last."""
    data: Any = await context.read()
    return None if data is grpc.aio.EOF else data  # pyright: ignore[reportAttributeAccessIssue]


def texts(context: Context) -> dict[str, str]:
    """The metadata of a call, without binary ones."""
    return {name.decode(): value.decode() for name, value in _pairs(context)}


def _pairs(context: Context) -> list[tuple[bytes, bytes]]:
    found = context.invocation_metadata() or ()
    return [(name.encode(), value.encode()) for name, value in found if isinstance(value, str)]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client is told; it does not hold the error, whose traceback holds much memory."""

    status: int  # of HTTP
    detail: str
    retry_after_s: float | None


def refusal(error: Exception) -> Refusal:
    """What the client is told of it."""
    if not isinstance(error, GatewayError):
        logger.error("event=grpc_crash", exc_info=error)
        error = InternalError("an unexpected error; the server's log has the cause")
    return Refusal(error.status, error.detail, error.retry_after_s)


def refuse(context: Context, error: Exception) -> int:
    """Ends a call without an answer when its handler returns; returns the status of HTTP.

    Aborting it would keep the handler's objects, also the message, until garbage is collected.
    """
    told = refusal(error)
    context.set_code(CODES.get(told.status, grpc.StatusCode.INTERNAL))
    context.set_details(told.detail)
    if told.retry_after_s is not None:
        after_s = max(1, math.ceil(told.retry_after_s))
        context.set_trailing_metadata((("retry-after", str(after_s)),))
    return told.status


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call that has begun."""

    context: Context
    connection: Connection
    key: object


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

    @contextmanager
    def arrived(self, context: Context) -> Iterator[Arrival]:
        """Around a call. Raises ClientGone if its connection has closed meanwhile."""
        connection = self._connections.of(context.peer())
        if connection is None:
            raise ClientGone("the connection has closed")
        with self._callers.arrived(connection) as key:
            yield Arrival(context, connection, key)

    def settled(self, arrival: Arrival) -> None:
        """From now on something else bounds this call."""
        self._callers.settled(arrival.key)

    def grants(self, arrival: Arrival) -> Grants:
        """What the caller may do now; it counts as a request. Raises as `Access.grants`."""
        return self.runtime.access.grants(_pairs(arrival.context), arrival.connection.host)

    @contextmanager
    def admitted(
        self, arrival: Arrival, require: Callable[[Grants], None], *, counts: bool = True
    ) -> Iterator[tuple[Caller, Grants]]:
        """Around work that needs permission. Raises what `require` raises, and TooManyCalls.

        It `counts` as a request, unless each of its messages does.
        """
        host, access = arrival.connection.host, self.runtime.access
        look = access.grants if counts else access.rights
        grants = look(_pairs(arrival.context), host)
        require(grants)
        name = caller(grants.name, host)
        with self._callers.admitted(name, arrival.connection) as found:
            self.settled(arrival)
            yield found, grants

    @asynccontextmanager
    async def message(self, caller: Caller, context: Context) -> AsyncIterator[bytes | None]:
        """Around the use of the next message, None after the last; counts its memory.

        While the message arrives, its size is not known: the largest size counts, and turns bound
        how much of that a caller has. Then its own size counts for the caller. Raises
        UploadTimeout, or Unavailable if there is no room for it.
        """
        data = await self._arriving(caller, context)
        with self.runtime.intake.holding(len(data or b""), holders((), caller.name)):
            yield data

    async def _arriving(self, caller: Caller, context: Context) -> bytes | None:
        has_turn = False
        try:
            async with asyncio.timeout(self.limit_s), self._callers.turn(caller):
                has_turn = True
                with self.runtime.intake.holding(self._longest):
                    return await read(context)
        except TimeoutError:
            if not has_turn:
                raise Unavailable("overloaded: too many messages arrive", retry_after_s=1) from None
            raise UploadTimeout(f"no message arrived within {self.limit_s:g} s") from None

    async def answer(self, arrival: Arrival, data: bytes, caller: Caller | None = None) -> None:
        """Sends an answer; closes the connection of a client that does not read it.

        Raises UploadTimeout then, and TooManyCalls if this caller has too many unread bytes.
        """
        with self._callers.answering(caller, len(data)) if caller else nullcontext():
            try:
                async with asyncio.timeout(READ_S):
                    await arrival.context.write(data)
            except TimeoutError:
                arrival.connection.abort()
                raise UploadTimeout(f"the answer was not read within {READ_S:g} s") from None
            except grpc.aio.BaseError:
                raise ClientGone("the call ended before its answer was sent") from None

    @contextmanager
    def noted(self, path: str, context: Context, *, quiet: bool = False) -> Iterator[Exchange]:
        """Around a call: its exchange, which is reported to the access log and traces."""
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
        reports = () if quiet else self.runtime.reporting.reports
        if audit.is_call(path):
            reports = (*reports, audit.note)
        with exchanged(reports, exchange):
            try:
                yield exchange
            except asyncio.CancelledError:  # how gRPC says that the client has left
                exchange.status = ClientGone.status
                raise
