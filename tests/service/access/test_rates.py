"""How many requests a token may make, over every protocol."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from model_store import ModelStore
from service.access import Access
from service.errors import RateExceeded
from service.open_inference import inference_pb2 as pb
from service.open_inference.grpc_server import PREFIX
from tests.service.access.tokens import Clock, bearer, classify, entry, granted, look
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.systems import publish
from tests.service.waiting import PATIENCE_S


def test_a_rate_lets_in_its_burst_and_then_so_many_a_second(tmp_path: Path) -> None:
    file, clock = tmp_path / "tokens.toml", Clock()
    file.write_text(entry("slow", "1", "rate = 0.5\nburst = 3") + entry("free", "2", ""))
    guard = Access(str(file), clock=clock)

    def let_in(token: str, requests: int = 10) -> int:
        count = 0
        for _ in range(requests):
            with suppress(RateExceeded):
                granted(guard, token)
                count += 1
        return count

    assert let_in("1") == 3
    with pytest.raises(RateExceeded, match="slow may make") as error:
        granted(guard, "1")
    assert error.value.retry_after_s == pytest.approx(2)
    assert let_in("2", 1000) == 1000
    for waited, wanted in ((1.9, 0), (0.1, 1), (4.0, 2), (1000.0, 3)):
        clock.now += waited
        assert let_in("1") == wanted
    file.write_text(entry("slow", "new", "rate = 0.5\nburst = 3\nread = true"))
    look(guard)
    assert let_in("new") == 0  # another secret and scope: the same bucket
    file.write_text(entry("slow", "new", "rate = 1\nburst = 4"))
    look(guard)
    assert let_in("new") == 4


def test_a_rate_holds_for_every_protocol_but_not_for_health_and_metrics(
    tmp_path: Path, compilations: str
) -> None:
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain")
    rate = "rate = 1e-6\nburst = 2\nclassify = ['*']\nread = true\nadmin = true"
    (tmp_path / "tokens.toml").write_text(entry("slow", "s", rate))
    gateway = Gateway(store, compilations, tokens=str(tmp_path / "tokens.toml"))
    guard = gateway.app.state.runtime.access

    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    try:
        for path in ("/livez", "/readyz", "/healthz", "/metrics") * 3:
            assert gateway.request("GET", path, headers=bearer("s")).status_code == 200
        assert classify(gateway, "plain", "s").status_code == 200
        assert gateway.request("GET", "/tasks", headers=bearer("s")).status_code == 200
        for method, path in (("POST", "/classify/plain"), ("POST", "/classify?task=plain"),
                             ("GET", "/tasks"), ("GET", "/tasks/plain"), ("GET", "/v2/models"),
                             ("POST", "/v2/models/plain/infer"), ("POST", "/v2/repository/index"),
                             ("POST", "/v2/repository/models/plain/load")):  # fmt: skip
            options = {"content": never()} if method == "POST" else {}
            answer = gateway.request(method, path, headers={**OCTETS, **bearer("s")}, **options)
            body = refused(answer, 429, "rate-exceeded")
            assert "slow may make" in body["detail"]
            assert 0 < int(answer.headers["retry-after"]) <= 1_000_000
        with pytest.raises(RateExceeded):
            guard.grants([(b"authorization", b"Bearer s")], "127.0.0.1")
        refused(gateway.request("GET", "/tasks", headers=bearer("x")), 401, "unauthenticated")
    finally:
        gateway.close()


def test_over_grpc_each_call_and_each_message_of_a_stream_counts(
    tmp_path: Path, compilations: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "tokens.toml").write_text(
        entry("calls", "c", "rate = 1e-6\nburst = 2\nread = true")
        + entry("stream", "s", "rate = 1e-6\nburst = 2\nclassify = ['*']")
    )
    store = ModelStore(tmp_path / "store", create=True)
    gateway = Gateway(store, compilations, tokens=str(tmp_path / "tokens.toml"), grpc_port=port)

    async def ask() -> tuple[list[Any], list[str]]:
        codes = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for _ in range(3):
                call = channel.unary_unary(f"{PREFIX}RepositoryIndex")
                try:
                    await call(b"", metadata=tuple(bearer("c").items()))
                    codes.append("OK")
                except grpc.aio.AioRpcError as error:
                    retry_after = dict(error.trailing_metadata() or ()).get("retry-after")
                    codes.append((error.code().name, retry_after))
            message = pb.ModelInferRequest(model_name="nothing").SerializeToString()
            stream = channel.stream_stream(f"{PREFIX}ModelStreamInfer")(
                iter([message] * 4), metadata=tuple(bearer("s").items())
            )
            answer = pb.ModelStreamInferResponse
            return codes, [answer.FromString(one).error_message async for one in stream]

    try:
        codes, said = gateway.runner.run(asyncio.wait_for(ask(), PATIENCE_S))
    finally:
        gateway.close()
    assert codes == ["OK", "OK", ("RESOURCE_EXHAUSTED", "1000000")]
    assert ["no task" in one for one in said] == [True, True, False, False]
    assert all("stream may make" in one for one in said[2:])


def test_a_stream_goes_by_the_tokens_of_each_message(tmp_path: Path, compilations: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path / "tokens.toml"
    file.write_text(entry("stream", "s", "classify = ['*']"))
    store = ModelStore(tmp_path / "store", create=True)
    gateway = Gateway(store, compilations, tokens=str(file), grpc_port=port)

    async def ask() -> list[str]:
        said, message = [], pb.ModelInferRequest(model_name="nothing").SerializeToString()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream = channel.stream_stream(f"{PREFIX}ModelStreamInfer")(
                metadata=tuple(bearer("s").items())
            )
            for _ in range(2):
                await stream.write(message)
                answer = pb.ModelStreamInferResponse.FromString(await stream.read())
                said.append(answer.error_message)
                file.write_text("")
                look(gateway.app.state.runtime.access)
            await stream.done_writing()
        return said

    try:
        said = gateway.runner.run(asyncio.wait_for(ask(), PATIENCE_S))
    finally:
        gateway.close()
    assert "no task" in said[0]
    assert said[1] == "the token is not known here"
