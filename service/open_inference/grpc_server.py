"""The protocol over gRPC: `inference.GRPCInferenceService` on a port of its own.

It runs in the event loop of the app. Its calls come from the descriptor of inference.proto, so a
call is a coroutine of `grpc_calls.Calls` with the method's name; all others answer UNIMPLEMENTED.

Law: memory, calls and connections are bounded for every input (`grpc_connections`, `grpc_core`,
`grpc_callers`), nothing whose cost a client chooses runs on the event loop, and health is answered.
A call that its caller may not make is refused before its message is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
from google.protobuf.message import Message

from service.access import Grants
from service.errors import ClientGone
from service.http.loop_delay import LOOP
from service.open_inference import grpc_core, grpc_port
from service.open_inference.errors import NOT_SERVED, BadRequest, NotSupported
from service.open_inference.grpc_callers import Caller, Context, longest_message
from service.open_inference.grpc_calls import MAX_CONTROL_BYTES, Calls, parsed
from service.open_inference.grpc_connections import Connections
from service.open_inference.grpc_reception import Arrival, Reception, handler, refusal, refuse
from service.open_inference.grpc_standard import HEALTH, REFLECTION, Health, Reflection
from service.open_inference.inference_pb2 import DESCRIPTOR, ModelStreamInferResponse
from service.request import KEY_HEADER, Exchange, Request, Timings, Watch
from service.runtime import Runtime
from service.settings import LONGEST_DEADLINE_MS

logger = logging.getLogger(__name__)
SERVICE = DESCRIPTOR.services_by_name["GRPCInferenceService"]
PREFIX = f"/{SERVICE.full_name}/"
PROBES = frozenset({"ServerLive", "ServerReady"})  # which fill logs
INFER = frozenset({"ModelInfer", "ModelStreamInfer"})
ADMIN = frozenset({"RepositoryModelLoad", "RepositoryModelUnload"})
NOT_SERVED_METHODS = (
    *(
        f"{kind}SharedMemory{call}"
        for kind in ("System", "Cuda")
        for call in ("Status", "Register", "Unregister")
    ),
    "TraceSetting",
    "LogSettings",
)
SERVICES = (SERVICE.full_name, HEALTH, REFLECTION)
UNREAD = PROBES | {"ServerMetadata", *NOT_SERVED_METHODS}  # by anybody: their messages are empty
PROTOCOL = "v2-grpc"
NOBODY = Request(PROTOCOL, (), grants=Grants("nobody"), caller="nobody")
Call = Callable[[Any, Request], Awaitable[Message | bytes]]


@asynccontextmanager
async def serving(runtime: Runtime) -> AsyncIterator[None]:
    """A server on MUNET_GRPC_PORT; when left, calls in flight are finished."""
    settings = runtime.settings
    found = grpc_port.listening(settings, shared=settings.workers > 1)
    connections = Connections()
    try:
        reception = Reception(runtime, connections)
        health = Health(reception, SERVICES)
        server = grpc_core.server(
            longest_message(settings),
            {
                SERVICE.full_name: _Methods(reception).handlers(),
                HEALTH: health.handlers(),
                REFLECTION: Reflection(reception, SERVICES).handlers(),
            },
        )
        server.add_insecure_port(connections.address)
        await server.start()
        await connections.listen(found)
        logger.info("event=grpc_started port=%d", settings.grpc_port)
        try:
            yield
        finally:
            connections.stop_listening()
            health.stop()
            await server.stop(LONGEST_DEADLINE_MS / 1e3)
    finally:
        found.close()
        await connections.close()


class _Methods:
    """The handlers of the protocol's own service."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._calls = Calls(reception.runtime)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """By the names of the methods."""
        found = {
            method.name: self._stream(method.name, getattr(self._calls, method.name))
            if method.client_streaming
            else self._single(method.name, self._call(method))
            for method in SERVICE.methods
        }
        return found | {name: self._single(name, _not_served) for name in NOT_SERVED_METHODS}

    def _call(self, method: Any) -> Call:
        call = getattr(self._calls, method.name)
        if method.name in INFER | UNREAD:
            return call
        return _small(method.input_type._concrete_class, call)

    def _single(self, name: str, call: Call) -> grpc.RpcMethodHandler[Any, Any]:
        """Of a call with one message and one answer."""
        path, reception = PREFIX + name, self._reception

        async def handle(_: Any, context: Context) -> None:
            with reception.noted(path, context, quiet=name in PROBES) as exchange:
                try:
                    with reception.arrived(context) as arrival:
                        if name in UNREAD:
                            reply = await call(b"", NOBODY)
                            await reception.answer(arrival, _encoded(reply))
                        elif name in INFER:
                            with self._watched() as request:
                                await answer(arrival, exchange, request)
                        else:
                            await answer(arrival, exchange, Request(PROTOCOL, ()))
                    exchange.status = 200
                except Exception as error:
                    exchange.status = refuse(context, error)

        async def answer(arrival: Arrival, exchange: Exchange, request: Request) -> None:
            with reception.admitted(arrival, _required(name)) as (caller, grants):
                async with reception.message(caller, arrival.context) as data:
                    if data is None:
                        raise BadRequest("expected a message, found none")
                    exchange.bytes_in = len(data)
                    self._ask(request, grants, caller, arrival.context)
                    reply = await call(data, request)
                encoded = _encoded(reply)
                exchange.bytes_out = len(encoded)
                await reception.answer(arrival, encoded, caller)

        return handler(handle)

    def _stream(self, name: str, call: Call) -> grpc.RpcMethodHandler[Any, Any]:
        """Of a call with many messages, each with its answer."""
        path, reception = PREFIX + name, self._reception

        async def handle(_: Any, context: Context) -> None:
            opened = False
            try:
                with (
                    reception.arrived(context) as arrival,
                    reception.admitted(arrival, _required(name), counts=False) as (caller, _),
                ):
                    opened = True
                    while await answer_next(arrival, caller):
                        pass
            except Exception as error:  # neither an idle stream nor an unread one keeps its place
                if opened:  # each message is noted by itself
                    refuse(context, error)
                    return
                with reception.noted(path, context) as exchange:
                    exchange.status = refuse(context, error)

        async def answer_next(arrival: Arrival, caller: Caller) -> bool:
            async with reception.message(caller, arrival.context) as data:
                if data is None:
                    return False
                with reception.noted(path, arrival.context) as exchange, self._watched() as request:
                    exchange.bytes_in = len(data)
                    reply = await reply_to(data, arrival, caller, exchange, request)
                    del data
                    encoded = reply.SerializeToString()
                    exchange.bytes_out = len(encoded)
                    await reception.answer(arrival, encoded, caller)
            return True

        async def reply_to(
            data: bytes, arrival: Arrival, caller: Caller, exchange: Exchange, request: Request
        ) -> Message:
            """A refused request does not end the stream: its answer has the refusal."""
            try:
                grants = reception.grants(arrival)  # the token may be gone by now
                self._ask(request, grants, caller, arrival.context)
                found: Any = await call(data, request)
                exchange.status = 200
                return ModelStreamInferResponse(infer_response=found)
            except Exception as error:
                told = refusal(error)
                exchange.status = told.status
                request.refused(error)
                return ModelStreamInferResponse(error_message=told.detail)

        return handler(handle)

    def _ask(self, request: Request, grants: Grants, caller: Caller, context: Context) -> None:
        """Fills in who asks, and the deadline."""
        request.grants, request.caller = grants, caller.name
        if self._reception.runtime.catalog.rollouts.active:
            sent = dict(context.invocation_metadata() or ())
            request.key = str(sent.get(KEY_HEADER, "")).encode()
        request.patience_s, left = self._reception.limit_s, context.time_remaining()
        if left is not None:
            given_s = time.monotonic() + left - request.timings.started
            request.patience_s = min(request.patience_s, given_s)

    @contextmanager
    def _watched(self) -> Iterator[Request]:
        now = time.monotonic()  # it has waited for a turn of the event loop, as long as these take
        LOOP.came(now)
        request = Request(PROTOCOL, (), Timings(now - LOOP.seconds(now)))
        with Watch(request, *self._reception.runtime.counters):
            try:
                yield request
            except asyncio.CancelledError:  # how gRPC says that the client has left
                request.status = ClientGone.status
                raise


def _encoded(reply: Message | bytes) -> bytes:
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _required(name: str) -> Callable[[Grants], None]:
    """The permission that a call needs, as far as it does not depend on the message."""
    if name in INFER:
        return _may_classify
    return Grants.require_admin if name in ADMIN else Grants.require_read


def _may_classify(grants: Grants) -> None:
    if not grants.classify:
        grants.require_classify("")


def _small(kind: type[Message], call: Call) -> Call:
    """The call with a message in place of its bytes."""

    async def parsing(data: bytes, request: Request) -> Message | bytes:
        if len(data) > MAX_CONTROL_BYTES:
            raise BadRequest(f"a message of {len(data)} bytes, at most {MAX_CONTROL_BYTES}")
        return await call(parsed(kind, data), request)

    return parsing


async def _not_served(data: bytes, request: Request) -> Message:
    del data, request
    raise NotSupported(NOT_SERVED)
