"""The services that every gRPC server is expected to have: grpc.health.v1, and reflection.

Kubernetes' probes of kind `grpc` use the first, grpcurl the second. Anybody may ask for health, and
it is answered under any load: while many of its calls wait for their messages, further calls are
answered unread, with the state of the whole server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection

from service.access import Grants
from service.errors import Unavailable, UnknownTask, UploadTimeout
from service.open_inference import inference_pb2
from service.open_inference.errors import BadRequest
from service.open_inference.grpc_callers import Caller, Context
from service.open_inference.grpc_calls import MAX_CONTROL_BYTES, parsed
from service.open_inference.grpc_reception import Reception, handler, read, refuse

Status = health_pb2.HealthCheckResponse
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name
READING = 4  # calls of Health whose message is awaited at once
MESSAGE_S = 5.0  # and for how long
WATCHING = 64  # streams; of more the oldest ends
LOOK_S = 0.5  # between looks whether a watched state has changed


class Health:
    """grpc.health.v1: one state for all services, whether requests should be sent here."""

    def __init__(self, reception: Reception, services: tuple[str, ...]) -> None:
        self._reception = reception
        self._services = ("", *services)
        self._reading = 0
        self._watching: deque[asyncio.Future[None]] = deque()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """By the names of the methods."""
        return {"Check": handler(self._check), "Watch": handler(self._watch)}

    def stop(self) -> None:
        """Ends all streams: they do not end by themselves."""
        while self._watching:
            self._watching.popleft().set_result(None)

    async def _check(self, _: Any, context: Context) -> None:
        try:
            with self._reception.arrived(context) as arrival:
                if await self._service(context) not in self._services:
                    raise UnknownTask(f"expected one of the services {list(self._services)}")
                status = Status(status=self._status())
                await self._reception.answer(arrival, status.SerializeToString())
        except Exception as error:
            refuse(context, error)

    async def _watch(self, _: Any, context: Context) -> None:
        over = asyncio.get_running_loop().create_future()
        try:
            with self._reception.arrived(context) as arrival:
                known = await self._service(context) in self._services
                self._reception.settled(arrival)
                self._watching.append(over)
                if len(self._watching) > WATCHING:
                    self._watching.popleft().set_result(None)
                told = None
                while not over.done():
                    status = self._status() if known else Status.SERVICE_UNKNOWN
                    if status != told:
                        told, data = status, Status(status=status).SerializeToString()
                        await self._reception.answer(arrival, data)
                    await asyncio.wait([over], timeout=LOOK_S)
                raise Unavailable("the server stops, or has too many watchers", retry_after_s=1)
        except Exception as error:
            refuse(context, error)
        finally:
            if over in self._watching:
                self._watching.remove(over)

    def _status(self) -> Status.ServingStatus:
        return Status.SERVING if self._reception.runtime.ready else Status.NOT_SERVING

    async def _service(self, context: Context) -> str:
        """The service that is asked for; the whole server while too many calls are open."""
        if self._reading >= READING:
            return ""
        self._reading += 1
        try:
            async with asyncio.timeout(MESSAGE_S):
                data = await read(context)
        except TimeoutError:
            raise UploadTimeout(f"the message did not arrive within {MESSAGE_S:g} s") from None
        finally:
            self._reading -= 1
        if data is None:
            raise BadRequest("expected a message, found none")
        return parsed(health_pb2.HealthCheckRequest, data[:MAX_CONTROL_BYTES]).service


class Reflection:
    """grpc.reflection.v1alpha, for callers with any right here."""

    def __init__(self, reception: Reception, services: tuple[str, ...]) -> None:
        self._reception = reception
        pool = DescriptorPool()  # of these alone
        for one in (inference_pb2, health_pb2, reflection_pb2):
            pool.AddSerializedFile(one.DESCRIPTOR.serialized_pb)
        self._known = reflection.ReflectionServicer(services, pool)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """By the names of the methods."""
        return {"ServerReflectionInfo": handler(self._answer)}

    async def _answer(self, _: Any, context: Context) -> None:
        reception = self._reception
        try:
            with (
                reception.arrived(context) as arrival,
                reception.admitted(arrival, _any_right) as (caller, _grants),
            ):
                requests = self._requests(caller, context)
                answers: Any = self._known.ServerReflectionInfo(requests, context)
                async for answer in answers:
                    await reception.answer(arrival, answer.SerializeToString(), caller)
        except (OverflowError, ValueError):  # of a number that no field has
            refuse(context, BadRequest("expected numbers of extensions"))
        except Exception as error:
            refuse(context, error)

    async def _requests(self, caller: Caller, context: Context) -> AsyncIterator[Any]:
        while True:
            async with self._reception.message(caller, context) as data:
                if data is None:
                    return
                if len(data) > MAX_CONTROL_BYTES:
                    raise BadRequest(f"a message of {len(data)} bytes, at most {MAX_CONTROL_BYTES}")
                yield parsed(reflection_pb2.ServerReflectionRequest, data)


def _any_right(grants: Grants) -> None:
    if not grants.classify and not grants.admin:
        grants.require_read()
