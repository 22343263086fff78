"""The calls of the protocol over gRPC, by the names of their methods."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message

from service.access import Grants
from service.compute.paths import LoadedPath
from service.http.room import holders
from service.images import Source
from service.open_inference import inference_pb2 as pb
from service.open_inference import models
from service.open_inference.errors import BadRequest
from service.open_inference.inference import Answer, Asked, infer, prepare, receive
from service.open_inference.models import Models, parse_version
from service.open_inference.requests import MAX_INPUTS, Request, parse
from service.open_inference.tensors import binary
from service.open_inference.wire import FEW_FIELDS, ManyFields, model_of, no_message
from service.runtime import Runtime
from service.tasks.lookups import Lookups
from service.telemetry.requests import Seen

CONTENTS = {"BYTES": "bytes_contents", "UINT8": "uint_contents", "FP32": "fp32_contents"}
MAX_VALUES = 2**20  # of the contents of a tensor, as in JSON: each becomes an object of Python
MAX_CONTROL_BYTES = 1 << 16  # of a message that is not a request to infer
T = TypeVar("T", bound=Message)


@dataclass(frozen=True, slots=True)
class Asking:
    """Whose call it is, until when it may take, and where it is noted."""

    grants: Grants
    caller: str
    deadline: float  # a time of `time.monotonic`
    seen: Seen = field(default_factory=lambda: Seen("v2-grpc", ()))  # of a request to classify


class Calls:
    """Each takes a message, or its bytes, and who asks; gives one, or its bytes if it may be long.

    Raises GatewayError.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def ServerLive(self, message: Any, asking: Asking) -> pb.ServerLiveResponse:
        """Whether the threads run."""
        return pb.ServerLiveResponse(live=self._runtime.alive)

    async def ServerReady(self, message: Any, asking: Asking) -> pb.ServerReadyResponse:
        """Whether requests should be sent here."""
        return pb.ServerReadyResponse(ready=self._runtime.ready)

    async def ServerMetadata(self, message: Any, asking: Asking) -> pb.ServerMetadataResponse:
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(**models.server())

    async def ModelReady(
        self, message: pb.ModelReadyRequest, asking: Asking
    ) -> pb.ModelReadyResponse:
        """Whether a request would be answered."""
        ready = await self._models(asking).ready(message.name, parse_version(message.version))
        return pb.ModelReadyResponse(ready=ready)

    async def ModelMetadata(self, message: pb.ModelMetadataRequest, asking: Asking) -> bytes:
        """Tensors and versions."""
        version = parse_version(message.version)
        content = await self._models(asking).metadata(message.name, version)
        return await self._made(content, pb.ModelMetadataResponse, self._runtime.facts)

    async def ModelConfig(self, message: pb.ModelConfigRequest, asking: Asking) -> bytes:
        """What clients of Triton read of a model's configuration."""
        version = parse_version(message.version)
        content = await self._models(asking).config(message.name, version)
        return await self._made({"config": content}, pb.ModelConfigResponse, self._runtime.facts)

    async def ModelStatistics(self, message: pb.ModelStatisticsRequest, asking: Asking) -> bytes:
        """Of one model or of all."""
        version = parse_version(message.version)
        content = await self._models(asking).statistics(message.name, version)
        return await self._made(
            {"model_stats": content}, pb.ModelStatisticsResponse, self._runtime.lists
        )

    async def RepositoryIndex(self, message: pb.RepositoryIndexRequest, asking: Asking) -> bytes:
        """Every task with its state."""
        content = await self._models(asking).index(message.ready)
        return await self._made(
            {"models": content}, pb.RepositoryIndexResponse, self._runtime.lists
        )

    async def RepositoryModelLoad(
        self, message: pb.RepositoryModelLoadRequest, asking: Asking
    ) -> pb.RepositoryModelLoadResponse:
        """Loads a task and waits."""
        await self._models(asking).load(message.model_name, message.parameters)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, message: pb.RepositoryModelUnloadRequest, asking: Asking
    ) -> pb.RepositoryModelUnloadResponse:
        """Lets go of a task."""
        await self._models(asking).unload(message.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, data: bytes, asking: Asking) -> pb.ModelInferResponse:
        """Classifies; until the client's deadline, and no longer than the client waits."""
        runtime, seen = self._runtime, asking.seen
        try:
            model, version = model_of(data, FEW_FIELDS)
        except ManyFields:
            loop = asyncio.get_running_loop()
            model, version = await loop.run_in_executor(runtime.parsers, model_of, data)

        async def read(path: LoadedPath) -> tuple[Request, Sequence[Source]]:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(runtime.parsers, self._parse, data, asking, path)

        seen.tasks = (model,)
        asked = Asked(
            grants=asking.grants,
            caller=asking.caller,
            model=model,
            version=parse_version(version),
            deadline=asking.deadline,
        )
        request, sources = await receive(runtime, asked, read, seen.timings)
        answer = await infer(runtime, seen, asked, request, sources, _never)
        values = sum(math.prod(one.shape) for one in answer.outputs)
        return await runtime.made(values, partial(_response, answer, request))

    # Its requests are those of ModelInfer, one after the other.
    ModelStreamInfer = ModelInfer

    def _parse(
        self, data: bytes, asking: Asking, path: LoadedPath
    ) -> tuple[Request, Sequence[Source]]:
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
        request = parse(content, views)
        keep = self._runtime.intake.keeper(holders((), asking.caller), len(data))
        return prepare(request, path, self._runtime.settings, keep)

    def _models(self, asking: Asking) -> Models:
        return Models(self._runtime, asking.grants)

    async def _made(self, content: Any, kind: type[Message], lookups: Lookups) -> bytes:
        """A message of what may be long, which never keeps answers waiting."""
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
