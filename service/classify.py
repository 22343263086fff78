"""From a request's tasks and images to logits or features, and to the classes an answer lists.

It loads the paths, reads the images, decodes them, queues their rows and waits for the batch that
they run in. All of this ends at the request's deadline, or when the client leaves. Every protocol
uses it.

The activation in a version's path spec says what its logits mean: `softmax` over classes, of which
a picture has one; or a `sigmoid` for each label, of which a picture has any number.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.compute.batching import Ask, Done
from service.compute.features import depth_of
from service.compute.paths import Copies, LoadedPath, Row, Shadow
from service.errors import (
    ClientGone,
    DeadlineExceeded,
    GatewayError,
    InternalError,
    TooLarge,
    Unavailable,
    UploadTimeout,
)
from service.images import Decoded, Source, Undecoded
from service.request import Features, Request
from service.runtime import Runtime
from vit.activation import SIGMOID, SOFTMAX, sigmoid, softmax
from vit.contract import Target
from vit.decode import Decoding

T = TypeVar("T")
F32 = NDArray[np.float32]
Logits = F32  # [classes]
# A request's images. Before it waits for them it calls its argument, which raises TaskQueueFull or
# Unavailable if they would not be admitted now.
Read = Callable[[Callable[[], None]], Awaitable[Sequence[Source]]]
Gone = Callable[[], Awaitable[None]]
NO_SHADOWS: Sequence[Sequence[Shadow]] = ()
TOP_K = 5  # classes listed of a softmax where the request does not say; of sigmoids all are
LOOK_AFTER_S = 0.1  # answers that take longer check whether the client is still there


@dataclass(frozen=True, slots=True)
class Classified:
    """One task's answer."""

    path: LoadedPath
    logits: Sequence[Logits]  # of each image; none where it is asked for features alone
    features: Sequence[F32] = ()  # of each image, where it is asked for them
    depth: int = 0  # transformer blocks that these have been through


Outcome = Classified | GatewayError  # of one task


async def classify(runtime: Runtime, request: Request, read: Read, gone: Gone) -> Sequence[Outcome]:
    """Every task's answer to every image that `read` gives, in the order asked for.

    A task that cannot answer does not fail the others; if none can, the first one's error is
    raised. `gone` returns when the client has left. Raises GatewayError.

    No local variable may hold an exception or a failed future: its traceback holds this frame, and
    the cycle would keep the body in memory until the next garbage collection.
    """
    timings, rollouts = request.timings, runtime.catalog.rollouts
    left_s = request.deadline - timings.enter("load")
    if left_s <= 0:
        within = f"within {request.patience_s:g} s"
        raise DeadlineExceeded(f"not answered {within}: it was read {-left_s:.3f} s after that")
    try:
        async with asyncio.timeout(left_s):
            found = await _paths(runtime, request)
            if request.features is not None:
                found = await _to_features(runtime, request.features, found)
            if request.labels and isinstance(found[0], LoadedPath):
                found[0].require(request.labels)
            timings.enter("receive")
            paths = [path for path in found if isinstance(path, LoadedPath)]
            sources = await read(lambda: runtime.batcher.check(_ask(paths, 1, request)))
            shadows = NO_SHADOWS
            if rollouts.active and request.version is None and request.features is None:
                found, copied = rollouts.route(request, found, sources)
                paths, shadows = _routed(found, copied)
            timings.enter("decode")
            rows = _Rows(runtime, paths, sources, shadows)
            ask = _ask(paths, len(sources), request, shadowed=bool(shadows))
            answer = runtime.batcher.submit(ask, rows, runtime.decoders, timings)
            try:
                done = await _unless_gone(answer, gone)
            finally:
                del answer
                timings.follow()
    except TimeoutError:
        raise _late(request) from None
    outcomes = _outcomes(request, found, done, len(sources))
    if runtime.samples is not None:
        classified = [one for one in outcomes if isinstance(one, Classified) and one.logits]
        answered = [(one.path, one.logits) for one in classified]
        runtime.samples.look(request.tasks, sources, answered)
    return outcomes


def _late(request: Request) -> GatewayError:
    """The error for the stage in which the deadline passed."""
    stage, within = request.timings.stage, f"within {request.patience_s:g} s"
    if stage == "load":
        return Unavailable(f"{_named(request.tasks)} still loading", retry_after_s=1)
    if stage == "receive":
        return UploadTimeout(f"the image did not arrive {within}")
    return DeadlineExceeded(f"not answered {within}")


def _outcomes(
    request: Request,
    found: Sequence[LoadedPath | GatewayError],
    done: Sequence[Done[Logits]],
    each: int,
) -> Sequence[Outcome]:
    """The rows' answers by task, each for `each` images; notes in the request what ran for it."""
    outcomes: list[Outcome] = []
    versions: list[int | None] = []
    at = 0
    for path in found:
        if isinstance(path, LoadedPath):
            answers = [one.answer for one in done[at : at + each]]
            outcomes.append(
                Classified(path, answers) if path.whole is None else _with_features(path, answers)
            )
            versions.append(path.published.version)
            at += each
        else:
            outcomes.append(path)
            versions.append(None)
    request.status, request.versions, request.rows = 200, versions, len(done)
    request.batch_rows, request.batch_tasks = done[0].batch_rows, done[0].batch_tasks
    for one in request.routed:
        one.look(outcomes)
    return outcomes


def _with_features(path: LoadedPath, answers: Sequence[F32]) -> Classified:
    """Logits come first, where they are asked for too."""
    *heads, _ = path.walks
    depth = depth_of(path)
    if not heads:
        return Classified(path, (), answers, depth)
    classes = heads[0].outputs
    logits, features = zip(*((one[:classes], one[classes:]) for one in answers), strict=True)
    return Classified(path, logits, features, depth)


def _named(tasks: Sequence[str]) -> str:
    return f"task {tasks[0]!r} is" if len(tasks) == 1 else f"one of {len(tasks)} tasks is"


async def _paths(runtime: Runtime, request: Request) -> Sequence[LoadedPath | GatewayError]:
    """The tasks' paths, or their errors; raises the first error if no task has a path."""
    if len(request.tasks) == 1:
        return [await runtime.catalog.acquire(request.tasks[0], request.grants, request.version)]
    found: list[LoadedPath | GatewayError] = []
    for path in await asyncio.gather(
        *(runtime.catalog.acquire(task, request.grants, request.version) for task in request.tasks),
        return_exceptions=True,
    ):
        if not isinstance(path, LoadedPath | GatewayError):
            raise path
        found.append(path)
    return _some(found)


async def _to_features(
    runtime: Runtime, wanted: Features, found: Sequence[LoadedPath | GatewayError]
) -> Sequence[LoadedPath | GatewayError]:
    """The paths to features, or errors; raises the first error if no task has such a path."""
    paths: list[LoadedPath | GatewayError] = []
    for path in found:
        try:
            is_path = isinstance(path, LoadedPath)
            paths.append(await runtime.feature_paths.of(path, wanted) if is_path else path)
        except GatewayError as error:
            paths.append(error.with_traceback(None))
    return _some(paths)


def _some(
    found: Sequence[LoadedPath | GatewayError],
) -> Sequence[LoadedPath | GatewayError]:
    """The same; raises the first error if there is no path."""
    if not any(isinstance(path, LoadedPath) for path in found):
        raise next(path for path in found if isinstance(path, GatewayError))
    return found


def _routed(
    found: Sequence[LoadedPath | GatewayError], copied: Copies
) -> tuple[Sequence[LoadedPath], Sequence[Sequence[Shadow]]]:
    """The paths that answer, and the shadows of each; none if no path has any."""
    paths: list[LoadedPath] = []
    shadows: list[Sequence[Shadow]] = []
    for place, path in enumerate(found):
        if isinstance(path, LoadedPath):
            paths.append(path)
            shadows.append(copied.get(place, ()))
    return paths, shadows if copied else NO_SHADOWS


class _Rows:
    """One row for each path and image.

    An image is decoded once by each set of rules that the paths' versions name, and resized as
    they need it. The engine computes rows with equal pixels together.
    """

    def __init__(
        self,
        runtime: Runtime,
        paths: Sequence[LoadedPath],
        sources: Sequence[Source],
        shadows: Sequence[Sequence[Shadow]],
    ) -> None:
        """`shadows` are those of each path, if any path has some."""
        self._limits = runtime.settings
        self._memory = runtime.decode_memory
        self._intake = runtime.intake
        self._paths = paths
        self._shadows = shadows
        self._sources = sources
        self._targets = paths[0].targets if len(paths) == 1 else targets_of(paths)
        self._left: deque[Undecoded] | None = None
        self._decoded: list[Mapping[Decoding, Mapping[Target, Decoded]]] = []

    def __call__(self) -> Sequence[Row] | None:
        """Decodes the next image; the rows after the last. Blocks. Raises GatewayError."""
        if self._left is None:
            self._left = self._looked_at()
        image = self._left.popleft()
        self._decoded.append(
            {rules: self._by(image.by(rules), found) for rules, found in self._targets.items()}
        )
        if self._left:
            return None
        decoded = self._decoded
        if self._shadows:
            each = zip(self._paths, self._shadows, strict=True)
            return [Row(path, by[path.decoding], of) for path, of in each for by in decoded]
        return [Row(path, by[path.decoding]) for path in self._paths for by in decoded]

    def _by(self, image: Undecoded, targets: Collection[Target]) -> Mapping[Target, Decoded]:
        with self._memory.holding(*image.memory(targets)):
            found = image.decoded(targets)
            for one in found.values():
                self._intake.count(one.pixels)
            return found

    def _looked_at(self) -> deque[Undecoded]:
        """All images' headers are read before any image is decoded."""
        images = deque(source.look(self._limits.max_pixels) for source in self._sources)
        pixels = sum(image.pixels for image in images)
        if len(images) > 1 and pixels > self._limits.max_request_pixels:
            raise TooLarge(
                f"the request's {len(images)} images have {pixels} pixels together, at most "
                f"{self._limits.max_request_pixels} are accepted; send fewer or smaller images in "
                "one request, or raise MUNET_MAX_REQUEST_PIXELS"
            )
        return images


def targets_of(paths: Sequence[LoadedPath]) -> Mapping[Decoding, Collection[Target]]:
    """The forms of an image that these paths need, by the rules of decoding."""
    found: dict[Decoding, set[Target]] = {}
    for path in paths:
        for decoding, targets in path.targets.items():
            found.setdefault(decoding, set()).update(targets)
    return found


def _ask(
    paths: Sequence[LoadedPath], images: int, request: Request, *, shadowed: bool = False
) -> Ask:
    """What the queues need to know of the rows that `_Rows` makes."""
    tasks: list[str] = []
    costs: list[float] = []
    for path in paths:
        tasks += [path.published.task] * images
        costs += [path.cost] * images
    return Ask(tasks, costs, request.deadline, request.priority, request.caller, shadowed)


async def _unless_gone(answer: asyncio.Future[T], gone: Gone) -> T:
    """The answer; cancels it when the client has left, so that nothing more begins for it."""
    loop = asyncio.get_running_loop()
    looking: list[asyncio.Task[None]] = []
    left = False

    async def look() -> None:
        nonlocal left
        await gone()
        left = True
        answer.cancel()  # noqa: F821 (deleted below, when nobody looks any more)

    timer = loop.call_later(LOOK_AFTER_S, lambda: looking.append(loop.create_task(look())))
    try:
        return await answer
    except asyncio.CancelledError:
        if left:
            raise ClientGone("the client closed the connection") from None
        raise
    finally:
        timer.cancel()
        for task in looking:
            task.cancel()
        del answer  # it holds its error, whose traceback holds this frame


def predictions(
    path: LoadedPath, logits: NDArray[np.float32], top_k: int | None, min_probability: float = 0.0
) -> list[dict[str, Any]]:
    """The most probable classes first; of equal ones, the first by index.

    Probabilities are of the logits divided by the version's temperature. At most `top_k` classes
    are listed, and none that is less probable than `min_probability`. Raises InternalError where
    logits are not finite.
    """
    values: list[float] = logits.tolist()
    found = _LISTED[path.activation](path, values, path.temperature)
    usual = TOP_K if path.activation == SOFTMAX else len(values)
    best: list[int] = (-logits).argsort(kind="stable")[: top_k or usual].tolist()
    labels = path.labels
    return [
        {"label": labels[index], "index": index, "probability": found[index]}
        for index in best
        if found[index] >= min_probability
    ]


def probabilities(path: LoadedPath, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of all classes, [rows, classes]; not calibrated. Raises InternalError as `predictions`."""
    return _ALL[path.activation](finite(path, logits))


def finite(path: LoadedPath, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same logits, or features. Raises InternalError as `predictions` does."""
    if not np.isfinite(logits).all():
        raise _not_finite(path)
    return logits


def calibrated(path: LoadedPath, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """`probabilities` of the logits divided by the version's temperature."""
    return probabilities(path, logits / np.float32(path.temperature))


def _softmax_list(path: LoadedPath, values: list[float], temperature: float) -> list[float]:
    """In plain Python: for up to some hundred classes it is faster than NumPy's calls."""
    highest = max(values)
    odds = list(map(math.exp, [(value - highest) / temperature for value in values]))
    total = sum(odds)
    if not math.isfinite(total + min(values)):
        raise _not_finite(path)
    return [each / total for each in odds]


def _sigmoid_list(path: LoadedPath, values: list[float], temperature: float) -> list[float]:
    return probabilities(path, np.array(values, np.float32) / np.float32(temperature)).tolist()


# By activation: of one image, for JSON; of a batch, for tensors.
_LISTED: Mapping[str, Callable[[LoadedPath, list[float], float], list[float]]] = {
    SOFTMAX: _softmax_list,
    SIGMOID: _sigmoid_list,
}
_ALL: Mapping[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    SOFTMAX: softmax,
    SIGMOID: sigmoid,
}


def _not_finite(path: LoadedPath) -> InternalError:
    return InternalError(f"task {path.published.task!r} gave numbers that are not finite")
