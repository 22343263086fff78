"""The calls of the protocol over gRPC, by the names of their methods."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message

from service.compute.paths import LoadedPath
from service.http.room import holders
from service.images import Source
from service.open_inference import inference_pb2 as pb
from service.open_inference import models
from service.open_inference.errors import BadRequest
from service.open_inference.inference import Answer, infer, prepare, receive
from service.open_inference.models import Models, parse_version
from service.open_inference.requests import MAX_INPUTS, InferRequest, parse
from service.open_inference.tensors import binary
from service.open_inference.wire import FEW_FIELDS, ManyFields, model_of, no_message
from service.request import Request
from service.runtime import Runtime
from service.tasks.lookups import Lookups

CONTENTS = {"BYTES": "bytes_contents", "UINT8": "uint_contents", "FP32": "fp32_contents"}
MAX_VALUES = 2**20  # of the contents of a tensor, as in JSON: each becomes an object of Python
MAX_CONTROL_BYTES = 1 << 16  # of a message that is not a request to infer
T = TypeVar("T", bound=Message)


class Calls:
    """Each takes a message, or its bytes, and a request that says who asks; it returns a message,
    or its bytes if it may be long. Raises GatewayError.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def ServerLive(self, message: Any, request: Request) -> pb.ServerLiveResponse:
        """Whether the threads run."""
        return pb.ServerLiveResponse(live=self._runtime.alive)

    async def ServerReady(self, message: Any, request: Request) -> pb.ServerReadyResponse:
        """Whether requests should be sent here."""
        return pb.ServerReadyResponse(ready=self._runtime.ready)

    async def ServerMetadata(self, message: Any, request: Request) -> pb.ServerMetadataResponse:
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(**models.server())

    async def ModelReady(
        self, message: pb.ModelReadyRequest, request: Request
    ) -> pb.ModelReadyResponse:
        """Whether a request would be answered."""
        ready = await self._models(request).ready(message.name, parse_version(message.version))
        return pb.ModelReadyResponse(ready=ready)

    async def ModelMetadata(self, message: pb.ModelMetadataRequest, request: Request) -> bytes:
        """Tensors and versions."""
        version = parse_version(message.version)
        content = await self._models(request).metadata(message.name, version)
        return await self._made(content, pb.ModelMetadataResponse, self._runtime.facts)

    async def ModelConfig(self, message: pb.ModelConfigRequest, request: Request) -> bytes:
        """What clients of Triton read of a model's configuration."""
        version = parse_version(message.version)
        content = await self._models(request).config(message.name, version)
        return await self._made({"config": content}, pb.ModelConfigResponse, self._runtime.facts)

    async def ModelStatistics(self, message: pb.ModelStatisticsRequest, request: Request) -> bytes:
        """Of one model or of all."""
        version = parse_version(message.version)
        content = await self._models(request).statistics(message.name, version)
        return await self._made(
            {"model_stats": content}, pb.ModelStatisticsResponse, self._runtime.lists
        )

    async def RepositoryIndex(self, message: pb.RepositoryIndexRequest, request: Request) -> bytes:
        """Every task with its state."""
        content = await self._models(request).index(message.ready)
        return await self._made(
            {"models": content}, pb.RepositoryIndexResponse, self._runtime.lists
        )

    async def RepositoryModelLoad(
        self, message: pb.RepositoryModelLoadRequest, request: Request
    ) -> pb.RepositoryModelLoadResponse:
        """Loads a task and waits."""
        await self._models(request).load(message.model_name, message.parameters)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, message: pb.RepositoryModelUnloadRequest, request: Request
    ) -> pb.RepositoryModelUnloadResponse:
        """Lets go of a task."""
        await self._models(request).unload(message.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, data: bytes, request: Request) -> pb.ModelInferResponse:
        """Classifies, until the client's deadline or until the client leaves."""
        runtime = self._runtime
        try:
            model, version = model_of(data, FEW_FIELDS)
        except ManyFields:
            loop = asyncio.get_running_loop()
            model, version = await loop.run_in_executor(runtime.parsers, model_of, data)

        async def read(path: LoadedPath) -> tuple[InferRequest, Sequence[Source]]:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(runtime.parsers, self._parse, data, request, path)

        request.tasks, request.version = (model,), parse_version(version)
        asked, sources = await receive(runtime, request, read)
        answer = await infer(runtime, request, asked, sources, _never)
        values = sum(math.prod(one.shape) for one in answer.outputs)
        return await runtime.made(values, partial(_response, answer, asked))

    # Its requests are those of ModelInfer, one after the other.
    ModelStreamInfer = ModelInfer

    def _parse(
        self, data: bytes, request: Request, path: LoadedPath
    ) -> tuple[InferRequest, Sequence[Source]]:
        message = parsed(pb.ModelInferRequest, data)
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
        keep = self._runtime.intake.keeper(holders((), request.caller), len(data))
        return prepare(parse(content, views), path, self._runtime.settings, keep)

    def _models(self, request: Request) -> Models:
        return Models(self._runtime, request.grants)

    async def _made(self, content: Any, kind: type[Message], lookups: Lookups) -> bytes:
        """Makes a message that may be long, without keeping answers waiting."""
        async with self._runtime.in_time():
            return await lookups.ask(lambda: ParseDict(content, kind()).SerializeToString())


def parsed(kind: type[T], data: bytes) -> T:
    """The message that these bytes are; raises BadRequest if they cannot be parsed."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise no_message(data, kind.DESCRIPTOR.name) from None


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


def _input(tensor: pb.ModelInferRequest.InferInputTensor) -> dict[str, Any]:
    field = CONTENTS.get(tensor.datatype)
    data = None
    if field and tensor.HasField("contents"):
        values = getattr(tensor.contents, field)
        if len(values) > MAX_VALUES:
            raise BadRequest(
                f"{field}: expected at most {MAX_VALUES} values, found {len(values)}; send them "
                "in raw_input_contents"
            )
        data = list(values)
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


def _response(answer: Answer, request: InferRequest) -> pb.ModelInferResponse:
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
