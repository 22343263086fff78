"""The calls of the protocol over gRPC, by the names of their methods."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import grpc.aio
from google.protobuf.json_format import ParseDict

from service.access import FORWARDED, Grants
from service.classifying import Source
from service.compute.paths import LoadedPath
from service.errors import ClientGone
from service.runtime import Runtime
from service.telemetry.requests import Seen, watched
from service.v2 import inference_pb2 as pb
from service.v2 import models
from service.v2.errors import BadRequest
from service.v2.inference import Answer, Asked, infer, prepare, receive
from service.v2.models import Models, parse_version
from service.v2.requests import MAX_INPUTS, Request, parse
from service.v2.tensors import binary

Context = grpc.aio.ServicerContext[Any, Any]
CONTENTS = {"BYTES": "bytes_contents", "UINT8": "uint_contents", "FP32": "fp32_contents"}


def texts(context: Context) -> dict[str, str]:
    """The metadata that came with a call, but for binary ones."""
    found = context.invocation_metadata() or ()
    return {name: value for name, value in found if isinstance(value, str)}


def peer_host(peer: str) -> str | None:
    """The address of the other end, None of a Unix socket."""
    kind, _, address = unquote(peer).partition(":")
    return None if kind == "unix" else address.rpartition(":")[0].strip("[]")


class Calls:
    """Each takes a message and its context; raises GatewayError."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def ServerLive(self, message: Any, context: Context) -> pb.ServerLiveResponse:
        """Whether the threads run."""
        return pb.ServerLiveResponse(live=self._runtime.alive)

    async def ServerReady(self, message: Any, context: Context) -> pb.ServerReadyResponse:
        """Whether requests should be sent here."""
        return pb.ServerReadyResponse(ready=self._runtime.ready)

    async def ServerMetadata(self, message: Any, context: Context) -> pb.ServerMetadataResponse:
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(**models.server())

    async def ModelReady(
        self, message: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Whether a request would be answered."""
        ready = await self._models(context).ready(message.name, parse_version(message.version))
        return pb.ModelReadyResponse(ready=ready)

    async def ModelMetadata(
        self, message: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Tensors and versions."""
        version = parse_version(message.version)
        content = await self._models(context).metadata(message.name, version)
        return ParseDict(content, pb.ModelMetadataResponse())

    async def ModelConfig(
        self, message: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        """What clients of Triton read of a model's configuration."""
        version = parse_version(message.version)
        content = await self._models(context).config(message.name, version)
        return ParseDict({"config": content}, pb.ModelConfigResponse())

    async def ModelStatistics(
        self, message: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Of one model or of all."""
        version = parse_version(message.version)
        content = await self._models(context).statistics(message.name, version)
        return ParseDict({"model_stats": content}, pb.ModelStatisticsResponse())

    async def RepositoryIndex(
        self, message: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Every task with its state."""
        content = await self._models(context).index(message.ready)
        return ParseDict({"models": content}, pb.RepositoryIndexResponse())

    async def RepositoryModelLoad(
        self, message: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Loads a task and waits."""
        await self._models(context).load(message.model_name, message.parameters)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, message: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Lets go of a task."""
        await self._models(context).unload(message.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(
        self, message: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Classifies; until the client's deadline, and no longer than the client waits."""
        runtime, model = self._runtime, message.model_name

        async def read(path: LoadedPath) -> tuple[Request, Sequence[Source]]:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(runtime.decoders, self._parse, message, path)

        seen = Seen("v2-grpc", (model,))
        with watched(runtime.metrics, seen, runtime.tally.count):
            try:
                asked = Asked(
                    grants=self._grants(context),
                    model=model,
                    version=parse_version(message.model_version),
                    deadline=time.monotonic() + self._limit_s(context),
                )
                request, sources = await receive(runtime, asked, read)
                return _response(
                    await infer(runtime, seen, asked, request, sources, _never), request
                )
            except asyncio.CancelledError:  # how gRPC says that the client has left
                seen.status = ClientGone.status
                raise

    # Its requests are those of ModelInfer, one after the other.
    ModelStreamInfer = ModelInfer

    def _parse(
        self, message: pb.ModelInferRequest, path: LoadedPath
    ) -> tuple[Request, Sequence[Source]]:
        inputs, raw = message.inputs[: MAX_INPUTS + 1], message.raw_input_contents
        if raw and len(raw) != len(inputs):
            raise BadRequest(
                f"raw_input_contents: expected one for each input or none, found {len(raw)}"
            )
        content = {
            "id": message.id,
            "parameters": _parameters(message.parameters),
            "inputs": [_input(one) for one in inputs],
            "outputs": [
                {"name": one.name, "parameters": _parameters(one.parameters)}
                for one in message.outputs[: MAX_INPUTS + 1]
            ],
        }
        views = [memoryview(one) for one in raw] or [None] * len(inputs)
        request = parse(content, views)
        return prepare(request, path, self._runtime.settings, self._runtime.intake.kept)

    def _limit_s(self, context: Context) -> float:
        longest = self._runtime.settings.deadline_ms / 1e3
        left = context.time_remaining()
        return longest if left is None else min(longest, left)

    def _grants(self, context: Context) -> Grants:
        metadata = texts(context)
        return self._runtime.access.grants(
            metadata.get("authorization"),
            peer_host(context.peer()),
            forwarded=any(name in metadata for name in FORWARDED),
        )

    def _models(self, context: Context) -> Models:
        return Models(self._runtime, self._grants(context))


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


def _input(tensor: pb.ModelInferRequest.InferInputTensor) -> dict[str, Any]:
    field = CONTENTS.get(tensor.datatype)
    data = list(getattr(tensor.contents, field)) if field and tensor.HasField("contents") else None
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
        "parameters": _parameters(tensor.parameters),
        "data": data,
    }


def _parameters(found: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    return {
        name: getattr(value, choice)
        for name, value in found.items()
        if (choice := value.WhichOneof("parameter_choice")) is not None
    }


def _response(answer: Answer, request: Request) -> pb.ModelInferResponse:
    tensor = pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        model_name=answer.model,
        model_version=str(answer.version),
        id=request.id,
        outputs=[
            tensor(name=one.name, datatype=one.datatype, shape=one.shape) for one in answer.outputs
        ],
        raw_output_contents=[binary(one.values) for one in answer.outputs],
    )
