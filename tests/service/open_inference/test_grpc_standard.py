"""Health and reflection, asked by their own clients; many callers at once; shares of each."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from service.open_inference import grpc_standard
from service.open_inference.grpc_server import PREFIX, SERVICE, SERVICES, serving
from service.runtime import Runtime
from tests.service.in_process import Gateway
from tests.service.open_inference.conftest import Spoken
from tests.service.waiting import PATIENCE_S

Request, Status = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse


@pytest.fixture
def port(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, on which the gateway in this process is set to serve."""
    runtime = gateway.app.state.runtime
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = free.getsockname()[1]
    monkeypatch.setattr(runtime, "settings", replace(runtime.settings, grpc_port=found))
    return found


@asynccontextmanager
async def channel_to(port: int, runtime: Runtime) -> AsyncIterator[grpc.aio.Channel]:
    """To a server that runs for so long."""
    async with serving(runtime), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_health_of_every_service(spoken: Spoken, service: str) -> None:
    with grpc.insecure_channel(spoken.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(Request(service=service), timeout=PATIENCE_S).status == Status.SERVING
        watched = stub.Watch(Request(service=service), timeout=PATIENCE_S)
        assert next(watched).status == Status.SERVING
        watched.cancel()


def test_health_of_none(spoken: Spoken) -> None:
    with grpc.insecure_channel(spoken.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            stub.Check(Request(service="other"), timeout=PATIENCE_S)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND  # pyright: ignore[reportAttributeAccessIssue]
        watched = stub.Watch(Request(service="other"), timeout=PATIENCE_S)
        assert next(watched).status == Status.SERVICE_UNKNOWN
        watched.cancel()


def test_watchers_hear_that_it_drains_and_ends(
    gateway: Gateway, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = gateway.app.state.runtime

    async def run() -> list[Any]:
        async with channel_to(port, runtime) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watching = stub.Watch(Request())
            told = [(await watching.read()).status]
            monkeypatch.setattr(runtime, "draining", True)
            told.append((await watching.read()).status)
            told.append((await stub.Check(Request())).status)
            monkeypatch.setattr(runtime, "draining", False)
            told.append((await watching.read()).status)
            watching.add_done_callback(lambda call: ended.set())
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()
        return told

    ended = asyncio.Event()
    states = gateway.runner.run(run())
    assert states == [Status.SERVING, Status.NOT_SERVING, Status.NOT_SERVING, Status.SERVING]


def test_only_the_latest_watch(
    gateway: Gateway, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_standard, "WATCHING", 2)

    async def run() -> Any:
        async with channel_to(port, gateway.app.state.runtime) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            calls = []
            for _ in range(3):
                calls.append(stub.Watch(Request()))
                await calls[-1].read()
            async with asyncio.timeout(PATIENCE_S):
                return await calls[0].code(), calls[1].done(), calls[2].done()

    assert gateway.runner.run(run()) == (grpc.StatusCode.UNAVAILABLE, False, False)


def test_reflection_tells_the_calls_and_their_messages(spoken: Spoken) -> None:
    with grpc.insecure_channel(spoken.grpc) as channel:
        found = ProtoReflectionDescriptorDatabase(channel)
        assert set(found.get_services()) == set(SERVICES)
        pool = DescriptorPool(found)
        service = pool.FindServiceByName(SERVICE.full_name)
        assert {one.name for one in service.methods} == {one.name for one in SERVICE.methods}
        message = pool.FindMessageTypeByName("inference.ModelInferRequest")
        assert message.fields_by_name["raw_input_contents"].number == 7
        with pytest.raises(KeyError):
            found.FindFileContainingSymbol("inference.Nothing")


def test_unserved_calls_say_so(spoken: Spoken) -> None:
    with grpc.insecure_channel(spoken.grpc) as channel:
        for name in ("SystemSharedMemoryStatus", "LogSettings", "Unheard"):
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(PREFIX + name)(b"", timeout=PATIENCE_S)
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED  # pyright: ignore[reportAttributeAccessIssue]
