"""The gRPC server in this process: who is refused and how, cancelling, stopping, ports."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from service.compute.batching import Batcher, Limits
from service.errors import SettingsError, Unauthenticated, Unavailable
from service.http.listening import listener
from service.http.room import caller, holders
from service.http.uploads import Intake
from service.open_inference import grpc_port, grpc_reception, models
from service.open_inference import inference_pb2 as pb
from service.open_inference.errors import NOT_SERVED, BadRequest
from service.open_inference.grpc_callers import Caller, longest_message
from service.open_inference.grpc_calls import CONTENTS, MAX_VALUES, _input
from service.open_inference.grpc_reception import Reception
from service.open_inference.grpc_server import NOBODY, PREFIX, _Methods, serving
from service.request import Exchange, Request
from service.runtime import Runtime
from tests.service.in_process import Gateway
from tests.service.open_inference.conftest import Spoken
from tests.service.servers import ROOT, environment
from tests.service.systems import png
from tests.service.waiting import PATIENCE_S, eventually

INFER = f"{PREFIX}ModelInfer"
MIB = 2**20


def message(**changes: Any) -> pb.ModelInferRequest:
    """A request with one image."""
    contents = pb.InferTensorContents(bytes_contents=[png(1)])
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="image", datatype="BYTES", shape=[1], contents=contents
    )
    return pb.ModelInferRequest(**{"model_name": "plain", "inputs": [tensor], **changes})


@dataclass
class Blocked:
    """An engine that runs nothing before it is told to."""

    release: threading.Event
    ran: list[int]
    batcher: Batcher[Any, Any]


@pytest.fixture
def runtime(gateway: Gateway) -> Runtime:
    """The gateway's, with its task loaded."""
    eventually(lambda: gateway.classify("plain", png(1)).status_code == 200)
    return gateway.app.state.runtime


@pytest.fixture
def port(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, on which the gateway is set to serve."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = free.getsockname()[1]
    monkeypatch.setattr(runtime, "settings", replace(runtime.settings, grpc_port=found))
    return found


@pytest.fixture
def blocked(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocked]:
    """The gateway with this engine."""
    release, ran = threading.Event(), []

    def run(rows: Sequence[Any]) -> Sequence[Any]:
        ran.append(len(rows))
        release.wait()
        return [np.zeros(3, np.float32) for _ in rows]

    batcher = Batcher[Any, Any](run, Limits(4, 4, 4))
    batcher.start()
    monkeypatch.setattr(runtime, "batcher", batcher)
    yield Blocked(release, ran, batcher)
    release.set()
    batcher.stop()


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not look():
            await asyncio.sleep(0.01)


async def ask(
    port: int, request: bytes, path: str = INFER, **options: Any
) -> tuple[grpc.StatusCode, Any, Any]:
    """Code, answer or text, and trailing metadata."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(path)(request, **options)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details(), dict(error.trailing_metadata())
        return grpc.StatusCode.OK, pb.ModelInferResponse.FromString(answer), {}


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (message(), "OK", ""),
        (message(model_name="plains"), "NOT_FOUND", "did you mean plain"),
        (message(model_version="x y"), "INVALID_ARGUMENT", "version"),
        (message(inputs=[]), "INVALID_ARGUMENT", "expected one input, found 0"),
        (message(raw_input_contents=[b"", b""]), "INVALID_ARGUMENT", "raw_input_contents"),
        (message(raw_input_contents=[png(1)]), "INVALID_ARGUMENT", "both data and binary"),
        (message(id="x" * 300), "INVALID_ARGUMENT", "256 characters"),
    ],
)
def test_calls(
    gateway: Gateway, runtime: Runtime, port: int, request_: Any, code: str, said: str
) -> None:
    async def run() -> Any:
        async with serving(runtime):
            return await ask(port, request_.SerializeToString())

    found, answer, _ = gateway.runner.run(run())
    assert found.name == code, answer
    assert said in str(answer)


@pytest.mark.parametrize(("datatype", "field"), CONTENTS.items())
def test_values_that_would_each_become_an_object_are_counted_first(
    datatype: str, field: str
) -> None:
    values = [b""] * (MAX_VALUES + 1) if datatype == "BYTES" else bytes(MAX_VALUES + 1)
    contents = pb.InferTensorContents(**{field: values})
    tensor = pb.ModelInferRequest.InferInputTensor(datatype=datatype, contents=contents)
    with pytest.raises(BadRequest, match=f"{field}: .* 1048577; send .* raw_input_contents"):
        _input(tensor)


def test_what_is_no_message_of_ours(gateway: Gateway, runtime: Runtime, port: int) -> None:
    async def run() -> Any:
        async with serving(runtime):
            return [
                await ask(port, bytes(200_000)),  # the body's limit is 100 kB
                await ask(port, b"\xff\xff"),
                await ask(port, b"", f"{PREFIX}TraceSetting"),
                await ask(port, b"", "/other.Service/Call"),
                await ask(port, b"", f"{PREFIX}RepositoryModelLoad"),
                await ask(port, b"", metadata=(("x-forwarded-for", "1.2.3.4"),)),
            ]

    large, broken, unserved, other, admin, proxied = gateway.runner.run(run())
    assert large[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    text = "expected a ModelInferRequest, found 2 bytes that cannot be parsed"
    assert broken[:2] == (grpc.StatusCode.INVALID_ARGUMENT, text)
    assert unserved[:2] == (grpc.StatusCode.UNIMPLEMENTED, NOT_SERVED)
    assert other[0] is grpc.StatusCode.UNIMPLEMENTED
    assert admin[0] in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
    assert proxied[0] is grpc.StatusCode.PERMISSION_DENIED


def test_a_crash_tells_no_secrets(
    gateway: Gateway, runtime: Runtime, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash() -> Any:
        raise RuntimeError("secret")

    monkeypatch.setattr(models, "server", crash)

    async def run() -> Any:
        async with serving(runtime):
            return await ask(port, b"", f"{PREFIX}ServerMetadata")

    code, said, _ = gateway.runner.run(run())
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in said


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


def test_a_stream_that_may_not_open_is_in_the_log(
    gateway: Gateway, runtime: Runtime, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise Unauthenticated("the token is not known here")

    ended: list[Exchange] = []
    monkeypatch.setattr(runtime.reporting, "reports", (ended.append,))
    monkeypatch.setattr(runtime.access, "_known", refuse)
    monkeypatch.setattr(runtime.access, "_file", object())

    async def run() -> grpc.StatusCode:
        target = f"127.0.0.1:{port}"
        async with serving(runtime), grpc.aio.insecure_channel(target) as channel:
            return await channel.stream_stream(f"{PREFIX}ModelStreamInfer")().code()

    assert gateway.runner.run(run()) is grpc.StatusCode.UNAUTHENTICATED
    assert [(one.path, one.status) for one in ended] == [(f"{PREFIX}ModelStreamInfer", 401)]


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


def test_stopping_finishes_what_has_begun(
    gateway: Gateway, runtime: Runtime, port: int, blocked: Blocked
) -> None:
    async def run() -> Any:
        async with serving(runtime):
            first = asyncio.ensure_future(ask(port, message().SerializeToString()))
            await until(lambda: blocked.ran)
            asyncio.get_running_loop().call_later(0.2, blocked.release.set)
        return await first, await ask(port, message().SerializeToString(), timeout=PATIENCE_S)

    first, late = gateway.runner.run(run())
    assert first[0] is grpc.StatusCode.OK
    assert late[0] is grpc.StatusCode.UNAVAILABLE


def test_only_workers_of_one_gateway_share_a_port(
    gateway: Gateway, runtime: Runtime, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def twice() -> None:
        async with serving(runtime), serving(runtime):
            pass

    with pytest.raises(SettingsError, match="MUNET_GRPC_PORT must be a free port"):
        gateway.runner.run(twice())
    monkeypatch.setattr(runtime, "settings", replace(runtime.settings, workers=2))
    gateway.runner.run(twice())


def test_another_gateway_finds_the_port_of_workers_taken(runtime: Runtime, port: int) -> None:
    workers = replace(runtime.settings, grpc_port=port, workers=2)
    grpc_port.hold(replace(runtime.settings, grpc_port=0))
    grpc_port.hold(replace(workers, workers=1))  # which only looks
    grpc_port.hold(workers)
    try:
        with contextlib.ExitStack() as held:
            for _ in range(2):  # the workers themselves
                one = held.enter_context(listener(port, shared=True))
                one.listen()
            for other in (1, 2):
                with pytest.raises(SettingsError, match="another process listens on it"):
                    grpc_port.hold(replace(workers, workers=other))
        with pytest.raises(SettingsError):  # before its workers listen, and between two of them
            grpc_port.hold(workers)
    finally:
        while grpc_port._HELD:
            grpc_port._HELD.pop().close()


def test_a_second_gateway_on_one_port_does_not_start(spoken: Spoken, tmp_path: Path) -> None:
    port = spoken.grpc.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", ".", "--host", "127.0.0.1", "--port", "0"],
        cwd=ROOT,
        env=environment(
            tmp_path,
            MUNET_STORE=spoken.store.url,
            MUNET_GRPC_PORT=port,
            MUNET_WORKERS="2",
        ),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    (error,) = done.stderr.strip().splitlines()
    assert error.startswith("error: starting the gateway: MUNET_GRPC_PORT must be a free port")
    assert port in error


def test_without_a_port_there_is_no_server(gateway: Gateway, runtime: Runtime) -> None:
    async def run() -> None:
        async with serving(runtime):
            pass

    assert runtime.settings.grpc_port == 0
    gateway.runner.run(run())
    with pytest.raises(SettingsError, match="MUNET_GRPC_PORT"):
        replace(runtime.settings, grpc_port=-1)
