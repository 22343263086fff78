"""What bounds a gRPC call: memory, queues, deadlines, silence."""

from __future__ import annotations

import asyncio
import gc
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from service.errors import Unavailable
from service.http.room import caller, holders
from service.http.uploads import Intake
from service.open_inference import grpc_reception
from service.open_inference import inference_pb2 as pb
from service.open_inference.errors import BadRequest
from service.open_inference.grpc_callers import Caller, longest_message
from service.open_inference.grpc_calls import CONTENTS, MAX_VALUES, _input
from service.open_inference.grpc_reception import Reception
from service.open_inference.grpc_server import NOBODY, PREFIX, _Methods, serving
from service.request import Exchange, Request
from service.runtime import Runtime
from tests.service.in_process import Gateway
from tests.service.open_inference.in_process import INFER, MIB, Blocked, ask, message, until
from tests.service.waiting import PATIENCE_S


@pytest.mark.parametrize(("datatype", "field"), CONTENTS.items())
def test_values_that_would_each_become_an_object_are_counted_first(
    datatype: str, field: str
) -> None:
    values = [b""] * (MAX_VALUES + 1) if datatype == "BYTES" else bytes(MAX_VALUES + 1)
    contents = pb.InferTensorContents(**{field: values})
    tensor = pb.ModelInferRequest.InferInputTensor(datatype=datatype, contents=contents)
    with pytest.raises(BadRequest, match=f"{field}: .* 1048577; send .* raw_input_contents"):
        _input(tensor)


def test_a_full_queue_says_when_to_come_back(
    gateway: Gateway, runtime: Runtime, port: int, blocked: Blocked
) -> None:
    async def run() -> Any:
        async with serving(runtime):
            running = asyncio.ensure_future(ask(port, many))
            await until(lambda: blocked.ran)
            waiting = asyncio.ensure_future(ask(port, many))
            await until(lambda: len(blocked.batcher) or waiting.done())
            refused = await ask(port, many)
            blocked.release.set()
            return refused, [await running, await waiting]

    tensor = pb.ModelInferRequest.InferInputTensor(
        name="preprocessed", datatype="FP32", shape=[4, 16, 16, 3]
    )
    many = message(
        inputs=[tensor], raw_input_contents=[bytes(4 * 16 * 16 * 3 * 4)]
    ).SerializeToString()
    (code, _, metadata), answered = gateway.runner.run(run())
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(metadata["retry-after"]) >= 1
    assert [one[0] for one in answered] == [grpc.StatusCode.OK] * 2, answered


def test_the_rows_of_a_client_that_cancels_do_not_run(
    gateway: Gateway,
    runtime: Runtime,
    port: int,
    blocked: Blocked,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[Exchange] = []
    monkeypatch.setattr(runtime.reporting, "reports", (ended.append,))
    line = 'munet_requests_total{status="499",task="plain"}'
    before = gateway.metric(line)

    async def run() -> None:
        async with serving(runtime):
            first = asyncio.ensure_future(ask(port, message().SerializeToString()))
            await until(lambda: blocked.ran)
            second = asyncio.ensure_future(ask(port, message().SerializeToString()))
            await until(lambda: len(blocked.batcher))
            second.cancel()
            await until(lambda: not len(blocked.batcher))
            blocked.release.set()
            await first

    gateway.runner.run(run())
    assert blocked.ran == [1]
    assert gateway.metric(line) == before + 1
    assert [one.status for one in ended if one.path == INFER] == [499, 200]


def test_silence_ends_a_call_and_a_stream(
    gateway: Gateway, runtime: Runtime, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "settings", replace(runtime.settings, deadline_ms=1000))

    async def run() -> Any:
        target = f"127.0.0.1:{port}"
        async with serving(runtime), grpc.aio.insecure_channel(target) as channel:
            call = channel.stream_unary(INFER)()
            stream = channel.stream_stream(f"{PREFIX}ModelStreamInfer")()
            await stream.write(message().SerializeToString())
            answer = pb.ModelStreamInferResponse.FromString(await stream.read())
            async with asyncio.timeout(PATIENCE_S):
                return answer, await call.code(), await stream.code()

    answer, *codes = gateway.runner.run(run())
    assert answer.infer_response.outputs
    assert codes == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2


def test_lists_do_not_keep_answers_waiting(
    gateway: Gateway, runtime: Runtime, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their threads are others than those that requests to infer need."""
    requests: dict[str, Any] = {
        "RepositoryIndex": pb.RepositoryIndexRequest(),
        "ModelStatistics": pb.ModelStatisticsRequest(),
        "ModelMetadata": pb.ModelMetadataRequest(name="plain"),
        "ModelConfig": pb.ModelConfigRequest(name="plain"),
    }

    def submit(*_: Any) -> None:
        raise AssertionError("a thread for answers was asked")

    parsers = ThreadPoolExecutor(1)
    monkeypatch.setattr(parsers, "submit", submit)
    monkeypatch.setattr(runtime, "parsers", parsers)

    async def run() -> list[bytes]:
        target = f"127.0.0.1:{port}"
        async with serving(runtime), grpc.aio.insecure_channel(target) as channel:
            return [
                await channel.unary_unary(PREFIX + name)(request.SerializeToString())
                for name, request in requests.items()
            ]

    index, *others = gateway.runner.run(run())
    assert "plain" in {one.name for one in pb.RepositoryIndexResponse.FromString(index).models}
    assert all(b"plain" in one for one in others)


@pytest.mark.parametrize("streamed", [False, True])
def test_what_was_refused_is_gone_at_once(
    gateway: Gateway,
    runtime: Runtime,
    port: int,
    streamed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a garbage collection: a message may be megabytes, and a held task stays loaded."""
    gone: list[int] = []

    class Noted(bytes):
        def __del__(self) -> None:
            gone.append(len(self))

    read = grpc_reception.read

    async def noted(context: Any) -> bytes | None:
        data = await read(context)
        return data if data is None else Noted(data)

    monkeypatch.setattr(grpc_reception, "read", noted)
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="image", datatype="BYTES", shape=[1], contents={"bytes_contents": [b"no image"]}
    )
    refused = [
        message(inputs=[]).SerializeToString(),
        message(inputs=[tensor]).SerializeToString(),
        message(id="x" * 300).SerializeToString(),
        b"\x2a\0" * 30_000,
        b"\xff" * 11,
    ]

    async def run() -> None:
        async with serving(runtime), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            if not streamed:
                for one in refused:
                    assert (await ask(port, one))[0] is not grpc.StatusCode.OK
                return
            call = channel.stream_stream(f"{PREFIX}ModelStreamInfer")()
            for one in refused:
                await call.write(one)
                await call.read()
            await call.done_writing()
            await call.code()

    gc.collect()
    gc.disable()
    try:
        gateway.runner.run(run())
        assert sorted(gone) == sorted(len(one) for one in refused)
        assert runtime.catalog.entries()["plain"].slot.let_go()
    finally:
        gc.enable()


def test_messages_take_memory_together(
    gateway: Gateway, runtime: Runtime, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "intake", Intake(10))

    async def run() -> Any:
        async with serving(runtime):
            return await ask(port, message().SerializeToString())

    code, said, _ = gateway.runner.run(run())
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "of 10 bytes for bodies" in said


def test_a_deadline_that_has_passed_is_one(runtime: Runtime) -> None:
    class Late:
        def time_remaining(self) -> float:
            return 0.0

    late: Any = Late()
    nothing: Any = None
    one = Caller("one", asyncio.Semaphore())
    methods, request = _Methods(Reception(runtime, nothing)), Request("v2-grpc", ())
    methods._ask(request, NOBODY.grants, one, late)
    assert request.deadline <= time.monotonic()


def test_the_memory_of_a_message_is_its_callers(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sent:
        async def read(self) -> bytes:
            return bytes(2 * MIB)

    context: Any = Sent()
    nothing: Any = None
    intake = Intake(longest_message(runtime.settings) + 8 * MIB)
    monkeypatch.setattr(runtime, "intake", intake)

    async def run() -> None:
        reception = Reception(runtime, nothing)
        one = Caller(caller("anonymous", "127.0.0.1"), asyncio.Semaphore())
        async with reception.message(one, context):
            most = intake._limit - 2 * MIB
            with pytest.raises(Unavailable, match=r"address 127\.0\.0\.1 has 2097152"):
                intake.take(most, holders((), one.name))
            with intake.holding(most, holders((), caller("anonymous", "127.0.0.2"))):
                pass
        with intake.holding(intake._limit, holders((), one.name)):  # nothing stays counted
            pass

    asyncio.run(run())


def test_the_clients_deadline_counts(
    gateway: Gateway, runtime: Runtime, port: int, blocked: Blocked
) -> None:
    async def run() -> Any:
        async with serving(runtime):
            first = asyncio.ensure_future(ask(port, message().SerializeToString()))
            await until(lambda: blocked.ran)
            late = await ask(port, message().SerializeToString(), timeout=0.1)
            await until(lambda: not len(blocked.batcher))
            blocked.release.set()
            return late, await first

    late, first = gateway.runner.run(run())
    assert late[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert first[0] is grpc.StatusCode.OK
    assert blocked.ran == [1]
