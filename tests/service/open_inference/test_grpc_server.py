"""The gRPC server in this process: who is refused and how, cancelling, stopping, ports."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from service.errors import SettingsError, Unauthenticated
from service.http.listening import listener
from service.open_inference import grpc_port, models
from service.open_inference.errors import NOT_SERVED
from service.open_inference.grpc_server import PREFIX, serving
from service.request import Exchange
from service.runtime import Runtime
from tests.service.in_process import Gateway
from tests.service.open_inference.conftest import Spoken
from tests.service.open_inference.in_process import Blocked, ask, message, until
from tests.service.servers import ROOT, environment
from tests.service.systems import png
from tests.service.waiting import PATIENCE_S


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
