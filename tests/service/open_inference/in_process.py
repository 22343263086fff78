"""A gateway's gRPC server in this process, whose engine can be held up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from service.compute.batching import Batcher
from service.open_inference import inference_pb2 as pb
from service.open_inference.grpc_server import PREFIX
from tests.service.systems import png
from tests.service.waiting import PATIENCE_S

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
