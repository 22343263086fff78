"""A request to infer -> tensors, the same for both transports."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.classify import (
    Classified,
    Gone,
    Logits,
    calibrated,
    classify,
    finite,
    probabilities,
)
from service.compute.batching import Ask
from service.compute.paths import LoadedPath
from service.errors import GatewayError, TooLarge, Unavailable, UploadTimeout
from service.images import Decoded, File, Pixels, Source, named
from service.open_inference.errors import BadRequest, shown
from service.open_inference.models import FEATURES, INPUTS
from service.open_inference.requests import InferRequest, Output
from service.open_inference.tensors import Sent, images, numbers
from service.request import Features, Request
from service.runtime import Runtime
from service.settings import Settings
from vit.contract import Target, range_of, size_of
from vit.decode import Decoding

T = TypeVar("T")
Keep = Callable[[bytes], bytes]  # a copy that is counted; raises Unavailable
NOTHING = Sent(None, None, None)


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """An output of a model: FP32 numbers or BYTES, [rows, columns]."""

    name: str
    values: NDArray[np.float32] | Sequence[bytes]
    shape: tuple[int, int]
    binary: bool

    @property
    def datatype(self) -> str:
        """As the protocol names it."""
        return "FP32" if isinstance(self.values, np.ndarray) else "BYTES"

    def plain(self) -> list[Any]:
        """The values for JSON, in row-major order."""
        if isinstance(self.values, np.ndarray):
            return self.values.ravel().tolist()
        return [value.decode() for value in self.values]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answers."""

    model: str
    version: int
    outputs: Sequence[OutputTensor]


async def receive(
    runtime: Runtime, request: Request, read: Callable[[LoadedPath], Awaitable[T]]
) -> T:
    """What `read` returns; it is called only if the model can answer. Raises GatewayError."""
    (model,), timings = request.tasks, request.timings
    late: Callable[[], GatewayError] = partial(
        Unavailable, f"task {model!r} is still loading", retry_after_s=1
    )
    try:
        async with asyncio.timeout(request.deadline - timings.enter("load")):
            path = await runtime.catalog.acquire(model, request.grants, request.version)
            timings.enter("receive")
            late = partial(UploadTimeout, "the body did not arrive in time")
            ask = Ask([model], [path.cost], request.deadline, caller=request.caller)
            runtime.batcher.check(ask)
            return await read(path)
    except TimeoutError:
        raise late() from None


async def infer(
    runtime: Runtime, request: Request, asked: InferRequest, sources: Sequence[Source], gone: Gone
) -> Answer:
    """Classifies the images. Raises GatewayError."""
    request.priority = asked.priority
    if asked.timeout_s is not None:
        request.patience_s = min(request.patience_s, asked.timeout_s)
    names = [output.name for output in asked.outputs]
    if FEATURES in names:
        request.features = Features(asked.depth, alone=names == [FEATURES])

    async def read(_: Callable[[], None]) -> Sequence[Source]:
        return sources

    (outcome,) = await classify(runtime, request, read, gone)
    assert isinstance(outcome, Classified)  # its error would have been raised
    most = max(walk.outputs for walk in outcome.path.walks)
    values = len(names) * request.rows * most
    outputs = await runtime.made(values, partial(_outputs, asked, outcome))
    request.timings.enter("answer")
    return Answer(request.tasks[0], outcome.path.published.version, outputs)


def prepare(
    request: InferRequest, path: LoadedPath, settings: Settings, keep: Keep
) -> tuple[InferRequest, Sequence[Source]]:
    """The request without its tensor, and its images, each to be decoded at some sizes; blocks.

    `keep` counts the memory that images need in addition to the request's body.
    Raises BadRequest or TooLarge for what does not fit, and what `keep` raises.
    """
    sent, most = request.input, settings.max_batch_rows
    spec = INPUTS.get(sent.name) if isinstance(sent.name, str) else None
    if spec is None:
        raise BadRequest(f"input: expected one of {list(INPUTS)}, found {shown(sent.name)}")
    request = replace(request, input=NOTHING)  # JSON takes many times the memory of its numbers
    if spec.name == "image":
        files = [keep(one) for one in images(sent, spec, most)]
        return request, [File(one) for one in files]
    array = numbers(sent, spec, most)
    if sent.raw is None:
        array = _kept(array, keep)
    if spec.name == "pixels":
        height, width = array.shape[1:3]
        if height * width > settings.max_pixels:
            raise TooLarge(
                f"input 'pixels': {width} x {height} pixels, at most {settings.max_pixels} are "
                "accepted"
            )
        return request, [Pixels(one) for one in array]
    low, high = range_of(path.walks[0].target)
    if not ((array >= low) & (array <= high)).all():
        expected = f"numbers from {low:.7g} to {high:.7g}"
        raise BadRequest(f"input 'preprocessed': expected {expected}")
    return request, [_Preprocessed(one) for one in array]


def _kept(array: NDArray[Any], keep: Keep) -> NDArray[Any]:
    return np.frombuffer(keep(array.tobytes()), array.dtype).reshape(array.shape)


@dataclass(frozen=True, slots=True)
class _Preprocessed:
    """An image that is preprocessed already; it is a Source and an Undecoded."""

    array: NDArray[np.float32]
    pixels: int = 0
    fixed: ClassVar[bool] = True

    @property
    def content(self) -> memoryview:
        return np.ascontiguousarray(self.array).data.cast("B")

    def look(self, max_pixels: int) -> _Preprocessed:
        del max_pixels  # it is as large as the model takes it, or refused
        return self

    def by(self, decoding: Decoding) -> _Preprocessed:
        del decoding
        return self

    def memory(self, targets: Iterable[Target]) -> tuple[int, int]:
        del targets
        return self.array.nbytes, 0

    def decoded(self, targets: Iterable[Target]) -> Mapping[Target, Decoded]:
        target, *others = targets
        size = size_of(target)
        if others:
            sizes = sorted(map(size_of, (target, *others)))
            raise BadRequest(
                "input 'preprocessed': expected an input that the model can bring to its sizes "
                f"{sizes}: 'image' or 'pixels'"
            )
        if self.array.shape != (size, size, 3):
            raise BadRequest(
                f"input 'preprocessed': expected FP32 [n, {size}, {size}, 3], "
                f"found {['n', *self.array.shape]}"
            )
        return {target: named(self.array)}


def _outputs(request: InferRequest, outcome: Classified) -> Sequence[OutputTensor]:
    return [_tensor(output, outcome) for output in request.outputs]


def _tensor(output: Output, outcome: Classified) -> OutputTensor:
    found = outcome.features if output.name == FEATURES else outcome.logits
    values = _VALUES[output.name](outcome.path, np.array(found, np.float32))
    if not output.classes:
        return OutputTensor(output.name, values, values.shape, output.binary)
    texts = [text for one in values for text in _best(outcome.path, one, output.classes)]
    return OutputTensor(output.name, texts, (len(found), len(texts) // len(found)), output.binary)


# By the name of an output. What is not finite is refused.
_VALUES: Mapping[str, Callable[[LoadedPath, Logits], Logits]] = {
    "probabilities": probabilities,
    "logits": finite,
    "calibrated": calibrated,
    FEATURES: finite,
}


def _best(path: LoadedPath, values: NDArray[np.float32], most: int) -> list[bytes]:
    """value:index:label, the highest value first; of equal ones, the first by index."""
    best = np.argsort(-values, kind="stable")[:most]
    return [f"{values[i]:.9g}:{i}:{path.labels[i]}".encode() for i in best]
