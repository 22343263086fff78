"""The gateway's HTTP interface as a Starlette app; runs in BentoML, under uvicorn, or in process.

A request may say with the header `munet-deadline-ms` how long its answer is of use: it is refused
with 504 when that passes (408 if the image is still arriving, 503 if the task is still loading),
and its row is dropped if it has not begun to run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from model_store.refs import ALIAS
from service import listing, problems
from service.batching import Done
from service.errors import (
    BadParameter,
    DeadlineExceeded,
    GatewayError,
    InternalError,
    Unavailable,
    UploadTimeout,
)
from service.images import Decoded, decode
from service.metrics import CONTENT_TYPE
from service.paths import LoadedPath, Row
from service.runtime import Runtime
from service.settings import Settings
from service.uploads import read_image

DEADLINE_HEADER = "munet-deadline-ms"
TOP_K = 5
CLIENT_GONE = 499  # only in the metrics: nobody is left to read it


def create_app(settings: Settings | None = None) -> Starlette:
    """The app; its parts are made when it starts, from the environment if no settings are given."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        runtime = Runtime(settings or Settings.from_environment())
        await asyncio.to_thread(runtime.start)
        app.state.runtime = runtime
        yield
        await asyncio.to_thread(runtime.stop)

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/classify/{task:path}", classify, methods=["POST"]),
            Route("/tasks", tasks, methods=["GET"]),
            Route("/tasks/{task:path}", task, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/livez", live, methods=["GET"]),
            Route("/healthz", live, methods=["GET"]),
            Route("/readyz", ready, methods=["GET"]),
        ],
        exception_handlers={
            GatewayError: problems.problem,
            HTTPException: problems.no_route,
            Exception: problems.crash,
        },  # pyright: ignore[reportArgumentType]
    )


def _runtime(request: Request) -> Runtime:
    return request.app.state.runtime


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The parameters of a request to classify."""

    task: str
    version: int | str | None
    top_k: int | None
    deadline_s: float


@dataclass(frozen=True, slots=True)
class _Classified:
    path: LoadedPath
    decode_s: float
    done: Done[NDArray[np.float32]]


async def classify(request: Request) -> Response:
    """POST /classify/{task}"""
    started = time.monotonic()
    runtime = _runtime(request)
    task = request.path_params["task"]
    status = 500
    seconds: dict[str, float] | None = None
    try:
        wanted = _wanted(request, runtime.settings)
        result = await _classify(request, runtime, wanted, started)
        content = _answer(wanted, result)
        seconds = _seconds(result, started)
        status = 200
        return _respond(content, seconds)
    except GatewayError as error:
        status = error.status
        runtime.metrics.rejected.labels(error.kind).inc()
        raise
    except ClientDisconnect:
        status = CLIENT_GONE
        return Response(status_code=status)
    finally:
        runtime.metrics.answered(task, status, seconds)


def _respond(content: dict[str, Any], seconds: Mapping[str, float]) -> Response:
    milliseconds = {stage: round(value * 1e3, 3) for stage, value in seconds.items()}
    timing = ", ".join(f"{stage};dur={value}" for stage, value in milliseconds.items())
    return JSONResponse({**content, "timing_ms": milliseconds}, headers={"server-timing": timing})


def _wanted(request: Request, settings: Settings) -> _Wanted:
    query = request.query_params
    own_ms = _whole(DEADLINE_HEADER, request.headers.get(DEADLINE_HEADER), settings.deadline_ms)
    return _Wanted(
        task=request.path_params["task"],
        version=_version(query.get("version")),
        top_k=_whole("top_k", query.get("top_k"), None),
        deadline_s=min(own_ms or settings.deadline_ms, settings.deadline_ms) / 1e3,
    )


def _version(text: str | None) -> int | str | None:
    """A number, or a name."""
    if text is not None and ALIAS.fullmatch(text):
        return text
    return _whole("version", text, None)


def _whole(name: str, text: str | None, default: int | None) -> int | None:
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise BadParameter(f"{name} must be a whole number above zero, found {text[:50]!r}")
    return int(text)


async def _classify(
    request: Request, runtime: Runtime, wanted: _Wanted, started: float
) -> _Classified:
    """One request from its path to its logits, within its deadline.

    No local variable may hold an exception or a failed future: its traceback holds this frame, and
    the cycle would keep the body in memory until the next garbage collection.
    """
    task, limit = wanted.task, f"within {wanted.deadline_s:g} s"
    late: Callable[[], GatewayError] = partial(
        Unavailable, f"task {task!r} is still loading", retry_after_s=1
    )
    try:
        async with asyncio.timeout(wanted.deadline_s):
            path = await runtime.catalog.acquire(task, wanted.version)
            _check_top_k(wanted.top_k, path)
            late = partial(UploadTimeout, f"the image did not arrive {limit}")
            with runtime.receiving(task):
                body = await read_image(request, runtime.settings.max_body_bytes)
                late = partial(DeadlineExceeded, f"not answered {limit}")
                received = time.monotonic()
                decoded = await _decode(runtime, path, body)
            decode_s = time.monotonic() - received
            row = Row(path, decoded.pixels, decoded.identity)
            deadline = started + wanted.deadline_s
            done = await asyncio.wrap_future(
                runtime.batcher.submit(task, row, cost=path.cost, deadline=deadline)
            )
            return _Classified(path, decode_s, done)
    except TimeoutError:
        raise late() from None


def _check_top_k(top_k: int | None, path: LoadedPath) -> None:
    if top_k is not None and top_k > len(path.labels):
        raise BadParameter(f"top_k must be at most {len(path.labels)}, the classes; found {top_k}")


async def _decode(runtime: Runtime, path: LoadedPath, body: bytes) -> Decoded:
    def work() -> Decoded:
        return decode(body, size=path.image_size, max_pixels=runtime.settings.max_pixels)

    return await asyncio.get_running_loop().run_in_executor(runtime.decoders, work)


def _answer(wanted: _Wanted, result: _Classified) -> dict[str, Any]:
    logits = result.done.answer.astype(np.float64)
    if not np.isfinite(logits).all():
        raise InternalError(f"task {wanted.task!r} gave numbers that are not finite")
    odds = np.exp(logits - logits.max())
    probabilities = odds / odds.sum()
    best = np.argsort(-probabilities, kind="stable")[: wanted.top_k or TOP_K]
    labels = result.path.labels
    return {
        "task": wanted.task,
        "version": result.path.published.version,
        "predictions": [
            {"label": labels[i], "index": int(i), "probability": float(probabilities[i])}
            for i in best
        ],
    }


def _seconds(result: _Classified, started: float) -> dict[str, float]:
    return {
        "decode": result.decode_s,
        "queue": result.done.queue_s,
        "execute": result.done.execute_s,
        "total": time.monotonic() - started,
    }


async def tasks(request: Request) -> Response:
    """GET /tasks"""
    entries = _runtime(request).catalog.entries()
    return JSONResponse(await asyncio.to_thread(listing.list_tasks, entries))


async def task(request: Request) -> Response:
    """GET /tasks/{task}"""
    runtime = _runtime(request)
    name = request.path_params["task"]
    await runtime.catalog.require(name)
    entries = runtime.catalog.entries()
    if name not in entries:  # removed since
        raise runtime.catalog.unknown(name)
    content = await asyncio.to_thread(listing.describe_task, runtime.store, name, entries)
    return JSONResponse(content)


async def metrics(request: Request) -> Response:
    """GET /metrics"""
    text = await asyncio.to_thread(_runtime(request).metrics.exposition)
    return Response(text, headers={"content-type": CONTENT_TYPE})


async def live(request: Request) -> Response:
    """GET /livez, /healthz"""
    return _health(_runtime(request).alive)


async def ready(request: Request) -> Response:
    """GET /readyz"""
    return _health(_runtime(request).ready)


def _health(good: bool) -> Response:
    return PlainTextResponse("\n", 200 if good else 503)
