"""The protocol over gRPC: `inference.GRPCInferenceService` on a port of its own.

It runs in the event loop of the app. Its calls come from the descriptor of inference.proto, so a
call is a coroutine of `grpc_calls.Calls` with the method's name; all others answer UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from service.errors import (
    ClientGone,
    GatewayError,
    InternalError,
    SettingsError,
    UploadTimeout,
)
from service.http.exchanges import REQUEST_ID, TRACE_CONTEXT, request_id
from service.runtime import Runtime
from service.settings import LONGEST_DEADLINE_MS
from service.telemetry.requests import Exchange, exchanged
from service.v2.errors import NOT_SERVED, BadRequest, NotSupported
from service.v2.grpc_calls import Calls, Context, peer_host, texts
from service.v2.inference_pb2 import DESCRIPTOR, ModelStreamInferResponse

logger = logging.getLogger(__name__)
SERVICE = DESCRIPTOR.services_by_name["GRPCInferenceService"]
PREFIX = f"/{SERVICE.full_name}/"
QUIET = frozenset({f"{PREFIX}ServerLive", f"{PREFIX}ServerReady"})  # probes, which fill logs
MESSAGE_OVERHEAD = 1 << 16  # of a request around its tensors
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
T = TypeVar("T")
Call = Callable[[Any, Context], Awaitable[Any]]


@asynccontextmanager
async def serving(runtime: Runtime) -> AsyncIterator[None]:
    """A server on MUNET_GRPC_PORT, if that is set; when left, calls in flight are finished."""
    if not runtime.settings.grpc_port:
        yield
        return
    server = _server(runtime)
    await server.start()
    logger.info("event=grpc_started port=%d", runtime.settings.grpc_port)
    try:
        yield
    finally:
        await server.stop(LONGEST_DEADLINE_MS / 1e3)


def _server(runtime: Runtime) -> grpc.aio.Server:
    settings = runtime.settings
    server = grpc.aio.server(
        handlers=[_Handlers(runtime)],
        options=[
            # Of a compressed message, the size that it inflates to.
            ("grpc.max_receive_message_length", settings.max_body_bytes + MESSAGE_OVERHEAD),
            # Workers share the port; anybody else's server on it is an error.
            ("grpc.so_reuseport", int(settings.workers > 1)),
            ("grpc.max_concurrent_streams", settings.queue_total),  # of one connection
        ],
        maximum_concurrent_rpcs=2 * settings.queue_total,  # behind the queues, which say it better
    )
    try:
        server.add_insecure_port(f"[::]:{settings.grpc_port}")
    except RuntimeError as error:
        raise SettingsError(
            f"starting the gateway: MUNET_GRPC_PORT must be a free port, "
            f"found {settings.grpc_port}: {error}"
        ) from None
    return server


class _Handlers(grpc.GenericRpcHandler):
    """Finds a method's handler by its path."""

    def __init__(self, runtime: Runtime) -> None:
        calls = Calls(runtime)
        self._found = {
            PREFIX + method.name: _handler(runtime, method, getattr(calls, method.name))
            for method in SERVICE.methods
        }

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """None for another service's."""
        path = handler_call_details.method
        if path not in self._found and path.startswith(PREFIX):
            return grpc.unary_unary_rpc_method_handler(_unimplemented)  # pyright: ignore[reportArgumentType]
        return self._found.get(path)


def _handler(runtime: Runtime, method: Any, call: Call) -> grpc.RpcMethodHandler[Any, Any]:
    # For a call of one message gRPC itself waits as long as the client likes: read as a stream.
    make, wrap = (
        (grpc.stream_stream_rpc_method_handler, _streaming)
        if method.client_streaming
        else (grpc.stream_unary_rpc_method_handler, _answering)
    )
    wanted, given = method.input_type._concrete_class, method.output_type._concrete_class
    checked = _checked(runtime, wanted, call)
    path = PREFIX + method.name
    return make(wrap(runtime, path, checked), response_serializer=given.SerializeToString)


def _checked(runtime: Runtime, kind: type[Message], call: Call) -> Call:
    """The call with a message in place of its bytes; gRPC would log all that are none."""

    async def parsed(data: bytes, context: Context) -> Any:
        with runtime.intake.holding(len(data)):
            try:
                message = kind.FromString(data)
            except DecodeError:
                raise BadRequest(f"{len(data)} bytes that are no {kind.DESCRIPTOR.name}") from None
            return await call(message, context)

    return parsed


async def _soon(runtime: Runtime, step: Awaitable[T]) -> T:
    """Sending or receiving, for which the client is needed. Raises UploadTimeout."""
    limit_s = runtime.settings.deadline_ms / 1e3
    try:
        async with asyncio.timeout(limit_s):
            return await step
    except TimeoutError:
        raise UploadTimeout(f"no message went within {limit_s:g} s") from None


def _answering(runtime: Runtime, path: str, call: Call) -> Call:
    async def answer(messages: AsyncIterator[bytes], context: Context) -> Any:
        with _noted(runtime, path, context) as exchange:
            try:
                data = await _soon(runtime, anext(messages, None))
                if data is None:
                    raise BadRequest("expected a message, found none")
                exchange.bytes_in = len(data)
                reply = await call(data, context)
                exchange.status, exchange.bytes_out = 200, reply.ByteSize()
                return reply
            except Exception as error:
                exchange.status, code, detail, metadata = _refusal(error)
            await context.abort(code, detail, metadata)

    return answer


def _streaming(runtime: Runtime, path: str, call: Call) -> Call:
    async def answer(messages: AsyncIterator[bytes], context: Context) -> None:
        try:
            while (data := await _soon(runtime, anext(messages, None))) is not None:
                await _soon(runtime, context.write(await reply_to(data, context)))
            return
        except UploadTimeout as error:  # neither an idle stream nor an unread one keeps its place
            _, code, detail, _ = _refusal(error)
        await context.abort(code, detail)

    async def reply_to(data: bytes, context: Context) -> ModelStreamInferResponse:
        """A request that is refused ends nothing: its answer says so."""
        with _noted(runtime, path, context) as exchange:
            exchange.bytes_in = len(data)
            try:
                reply = ModelStreamInferResponse(infer_response=await call(data, context))
                exchange.status = 200
            except Exception as error:
                exchange.status, _, detail, _ = _refusal(error)
                reply = ModelStreamInferResponse(error_message=detail)
            exchange.bytes_out = reply.ByteSize()
        return reply

    return answer


def _refusal(error: Exception) -> tuple[int, grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Of HTTP the status, of gRPC the code, its text and trailing metadata."""
    if not isinstance(error, GatewayError):
        logger.error("event=grpc_crash", exc_info=error)
        error = InternalError("an unexpected error; the server's log has the cause")
    metadata: tuple[tuple[str, str], ...] = ()
    if error.retry_after_s is not None:
        metadata = (("retry-after", str(max(1, math.ceil(error.retry_after_s)))),)
    code = CODES.get(error.status, grpc.StatusCode.INTERNAL)
    return error.status, code, error.detail, metadata


@contextmanager
def _noted(runtime: Runtime, path: str, context: Context) -> Iterator[Exchange]:
    """Around a call: an exchange, of which the access log and traces hear if there are any."""
    metadata = texts(context)
    exchange = Exchange(
        method="POST",
        path=path,
        client=peer_host(context.peer()) or "",
        request_id=request_id(metadata.get(REQUEST_ID)),
        trace={name: metadata[name] for name in TRACE_CONTEXT if name in metadata},
        route=path,
    )
    with exchanged(() if path in QUIET else runtime.reporting.reports, exchange):
        try:
            yield exchange
        except asyncio.CancelledError:  # how gRPC says that the client has left
            exchange.status = ClientGone.status
            raise


async def _unimplemented(message: bytes, context: Context) -> None:
    del message
    error = NotSupported(NOT_SERVED)
    await context.abort(CODES[error.status], error.detail)
