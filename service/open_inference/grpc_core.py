"""gRPC's own server, with its bounds set and one fault mended.

Known methods are registered: each has a queue of its own, so that none can crowd out another. Calls
of unknown methods are answered here, unread: gRPC for Python ends its server when a method's name
is not UTF-8 (grpcio 1.85: `_server_main_loop` decodes it outside any `try`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Any

# Each message that a client garbles would be a line in the log. Read when grpc is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio
from grpc._cython import cygrpc
from grpc.aio import _server as aio_server  # pyright: ignore[reportAttributeAccessIssue]

from service.open_inference.grpc_callers import LOOKAHEAD

MAX_STREAMS = 64  # of one connection
MAX_PENDING = 512  # unread calls of one method; gRPC drops all when there are twice as many
MAX_METADATA = 16 << 10  # bytes
HANDSHAKE_S = 10  # from the preface to the client's settings
IDLE_S = 120  # without a call
ALIVE_S, PONG_S = 30, 20  # how often a client is asked for a sign of life, and how long it has

logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)  # tracebacks of calls that left


def options(longest_message: int) -> list[tuple[str, int]]:
    """What bounds a connection and its calls."""
    return [
        # Of a compressed message, the size that it inflates to.
        ("grpc.max_receive_message_length", longest_message),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        # Without a probe, a stream's window opens for the message that was asked for, and no more.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", LOOKAHEAD),
        ("grpc.http2.write_buffer_size", 1),  # what is written waits in our hands, not in gRPC's
        ("grpc.max_metadata_size", MAX_METADATA),
        ("grpc.absolute_max_metadata_size", MAX_METADATA),
        ("grpc.server.max_pending_requests", MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_S * 1000),
        ("grpc.max_connection_idle_ms", IDLE_S * 1000),
        ("grpc.keepalive_time_ms", ALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", PONG_S * 1000),
    ]


class _Core(cygrpc.AioServer):
    """Takes calls of unknown methods itself."""

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """The next call of a method; with None, of any unknown one."""
        if method is not None:
            return super()._make_request_call_future(method)
        return asyncio.get_running_loop().create_task(self._refuse_unknown())

    async def _refuse_unknown(self) -> None:
        loop = asyncio.get_running_loop()
        nothing = cygrpc._MethodResolver([], {})
        refusing: set[asyncio.Task[None]] = set()
        while True:
            call = await self._request_call()
            answer = cygrpc._handle_rpc("", nothing, (), call, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(answer, call, loop, ""))
            refusing.add(task)
            task.add_done_callback(refusing.discard)


class _Server(aio_server.Server):
    """With our core in place of gRPC's."""

    def __init__(self, longest_message: int) -> None:
        self._loop = cygrpc.get_working_loop()
        given = aio_server._augment_channel_arguments(options(longest_message), None)
        self._server = _Core(self._loop, None, (), None, given, None)


def server(
    longest_message: int, methods: Mapping[str, Mapping[str, grpc.RpcMethodHandler[Any, Any]]]
) -> grpc.aio.Server:
    """A server of these methods, by the full name of their service."""
    found = _Server(longest_message)
    for service, handlers in methods.items():
        found.add_registered_method_handlers(service, dict(handlers))
    return found
