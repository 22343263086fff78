"""The protocol over HTTP: /v2/…, with JSON bodies and binary tensor data behind them.

A model's name may contain slashes, as they are or as %2F (`model_paths`).
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.access import Grants
from service.compute.paths import LoadedPath
from service.errors import ClientGone, UploadTimeout
from service.http import compression, heads
from service.http.room import Holder, caller_of, holders
from service.http.uploads import gone, read_body
from service.http.watching import Watched
from service.images import Source
from service.open_inference import models
from service.open_inference.errors import NOT_SERVED, BadRequest, NotSupported, shown
from service.open_inference.inference import Answer, OutputTensor, infer, prepare, receive
from service.open_inference.model_paths import ModelRoute, require_one_reading
from service.open_inference.models import Models, parse_version
from service.open_inference.requests import InferRequest, parse_body, parse_json
from service.open_inference.tensors import binary
from service.request import Request
from service.runtime import Runtime

HEADER_SIZE = "inference-header-content-length"
MAX_CONTROL_BYTES = 1 << 16  # of a body that is not a request to infer
NOT_SERVED_PATHS = (
    "/v2/models/{model:path}/trace/setting",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/systemsharedmemory/{rest:path}",
    "/v2/cudasharedmemory/{rest:path}",
)


def _runtime(request: HttpRequest) -> Runtime:
    return request.app.state.runtime


def _models(request: HttpRequest) -> Models:
    runtime = _runtime(request)
    return Models(runtime, runtime.access.of(request.scope))


async def _long(request: HttpRequest, content: Any) -> Response:
    """JSON of all tasks, made in a thread of its own instead of the event loop."""
    return await _runtime(request).lists.ask(JSONResponse, content)


async def _named(request: HttpRequest, grants: Grants) -> tuple[str, int | str | None]:
    """The model and version in the path of a request that reads; raises GatewayError."""
    grants.require_read()
    await require_one_reading(request, _runtime(request), grants)
    return request.path_params["model"], _version(request)


def _version(request: HttpRequest) -> int | str | None:
    return parse_version(request.path_params.get("version", ""))


async def live(request: HttpRequest) -> Response:
    """GET /v2/health/live"""
    good = _runtime(request).alive
    return JSONResponse({"live": good}, 200 if good else 503)


async def ready(request: HttpRequest) -> Response:
    """GET /v2/health/ready"""
    good = _runtime(request).ready
    return JSONResponse({"ready": good}, 200 if good else 503)


async def server(request: HttpRequest) -> Response:
    """GET /v2"""
    del request
    return JSONResponse(models.server())


async def listed(request: HttpRequest) -> Response:
    """GET /v2/models"""
    found = await _models(request).index(only_ready=False)
    return await _long(request, {"models": [one["name"] for one in found]})


async def model_ready(request: HttpRequest) -> Response:
    """GET /v2/models/{model}[/versions/{version}]/ready"""
    known = _models(request)
    model, version = await _named(request, known.grants)
    good = await known.ready(model, version)
    return JSONResponse({"name": model, "ready": good}, 200 if good else 503)


async def metadata(request: HttpRequest) -> Response:
    """GET /v2/models/{model}[/versions/{version}]"""
    known = _models(request)
    asked = await _named(request, known.grants)
    return JSONResponse(await known.metadata(*asked))


async def config(request: HttpRequest) -> Response:
    """GET /v2/models/{model}[/versions/{version}]/config"""
    known = _models(request)
    asked = await _named(request, known.grants)
    return JSONResponse(await known.config(*asked))


async def statistics(request: HttpRequest) -> Response:
    """GET /v2/models/{model}[/versions/{version}]/stats"""
    known = _models(request)
    asked = await _named(request, known.grants)
    return JSONResponse({"model_stats": await known.statistics(*asked)})


async def all_statistics(request: HttpRequest) -> Response:
    """GET /v2/models/stats"""
    return await _long(request, {"model_stats": await _models(request).statistics("", None)})


async def index(request: HttpRequest) -> Response:
    """POST /v2/repository/index"""
    known = _models(request)
    known.grants.require_read()
    content = await _control(request)
    only_ready = content.get("ready", False)
    if not isinstance(only_ready, bool):
        raise BadRequest(f"ready: expected true or false, found {shown(only_ready)}")
    return await _long(request, await known.index(only_ready))


async def load(request: HttpRequest) -> Response:
    """POST /v2/repository/models/{model}/load"""
    known = _models(request)
    known.grants.require_admin()
    content = await _control(request)
    await known.load(request.path_params["model"], content.get("parameters") or {})
    return JSONResponse({})


async def unload(request: HttpRequest) -> Response:
    """POST /v2/repository/models/{model}/unload"""
    known = _models(request)
    known.grants.require_admin()
    await _control(request)  # `unload_dependents` means nothing here
    await known.unload(request.path_params["model"])
    return JSONResponse({})


async def not_served(request: HttpRequest) -> Response:
    """What other servers have and this one does not."""
    del request
    raise NotSupported(NOT_SERVED)


async def _control(request: HttpRequest) -> Mapping[str, Any]:
    """A small body of JSON, or none."""
    limit_s = _runtime(request).settings.deadline_ms / 1e3
    try:
        async with asyncio.timeout(limit_s):
            body = await _body(request, MAX_CONTROL_BYTES)
    except TimeoutError:
        raise UploadTimeout(f"the body did not arrive within {limit_s:g} s") from None
    parsers, loop = _runtime(request).parsers, asyncio.get_running_loop()
    content = (
        await loop.run_in_executor(parsers, parse_json, memoryview(body)) if body.strip() else {}
    )
    if not isinstance(content, dict):
        raise BadRequest(f"the request: expected an object, found {shown(content)}")
    return content


async def _body(request: HttpRequest, max_bytes: int, of: Sequence[Holder] = ()) -> bytes:
    try:
        return await read_body(request, max_bytes, of)
    except ClientDisconnect:
        raise ClientGone("the client closed the connection") from None


async def model_infer(http: HttpRequest, runtime: Runtime, request: Request) -> Response:
    """POST /v2/models/{model}[/versions/{version}]/infer"""
    (model,) = request.tasks
    grants = request.grants = runtime.access.of(http.scope)
    grants.require_classify(model)
    await require_one_reading(http, runtime, grants)
    request.caller, request.version = caller_of(grants.name, http.scope), _version(http)
    request.patience_s = runtime.settings.deadline_ms / 1e3
    (request.traceparent,) = heads.values(http.scope, heads.TRACEPARENT)
    of = holders(request.tasks, request.caller)
    asked, sources = await receive(runtime, request, partial(_infer_request, http, of))
    answer = await infer(runtime, request, asked, sources, partial(gone, http))
    return await _responded(http, asked, answer)


async def _infer_request(
    request: HttpRequest, of: Sequence[Holder], path: LoadedPath
) -> tuple[InferRequest, Sequence[Source]]:
    runtime = _runtime(request)
    body = await _body(request, runtime.settings.max_body_bytes, of)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(runtime.parsers, _parse, request, of, body, path)


def _parse(
    request: HttpRequest, of: Sequence[Holder], body: bytes, path: LoadedPath
) -> tuple[InferRequest, Sequence[Source]]:
    settings, keep = _runtime(request).settings, _runtime(request).intake.keeper(of, len(body))
    inflated = compression.inflate(body, compression.encoding(request), settings.max_body_bytes)
    body = body if inflated is body else keep(inflated)
    return prepare(parse_body(memoryview(body), _header_size(request)), path, settings, keep)


def _header_size(request: HttpRequest) -> int | None:
    text = request.headers.get(HEADER_SIZE)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise BadRequest(f"{HEADER_SIZE}: expected a number of bytes, found {shown(text)}")
    return int(text)


async def _responded(request: HttpRequest, wanted: InferRequest, answer: Answer) -> Response:
    values = sum(math.prod(one.shape) for one in answer.outputs)
    return await _runtime(request).made(values, partial(_respond, request, wanted, answer))


def _respond(request: HttpRequest, wanted: InferRequest, answer: Answer) -> Response:
    content = {"model_name": answer.model, "model_version": str(answer.version)}
    if wanted.id:
        content["id"] = wanted.id
    parts = [_output(one) for one in answer.outputs]
    header = json.dumps({**content, "outputs": [part for part, _ in parts]}).encode()
    tail = b"".join(raw for _, raw in parts)
    headers = {HEADER_SIZE: str(len(header))} if tail else {}
    headers["vary"] = "accept-encoding"
    body = header + tail
    encoding = compression.chosen(request.headers.get("accept-encoding", ""), len(body))
    if encoding is not None:
        body, headers["content-encoding"] = compression.deflate(body, encoding), encoding
    media = "application/octet-stream" if tail else "application/json"
    return Response(body, headers=headers, media_type=media)


def _output(given: OutputTensor) -> tuple[dict[str, Any], bytes]:
    content = {"name": given.name, "datatype": given.datatype, "shape": list(given.shape)}
    if given.binary:
        raw = binary(given.values)
        return {**content, "parameters": {"binary_data_size": len(raw)}}, raw
    return {**content, "data": given.plain()}, b""


Handler = Callable[[HttpRequest], Awaitable[Response]] | Watched


def _of_model(rest: str, handler: Handler, method: str) -> list[Route]:
    """Of a version first: a model's name may contain anything that follows it."""
    model = "/v2/models/{model:path}"
    return [
        ModelRoute(f"{model}/versions/{{version}}{rest}", handler, methods=[method]),
        ModelRoute(f"{model}{rest}", handler, methods=[method]),
    ]


ROUTES = [
    Route("/v2", server, methods=["GET"]),
    Route("/v2/health/live", live, methods=["GET"]),
    Route("/v2/health/ready", ready, methods=["GET"]),
    Route("/v2/models", listed, methods=["GET"]),
    Route("/v2/models/stats", all_statistics, methods=["GET"]),
    Route("/v2/repository/index", index, methods=["POST"]),
    ModelRoute("/v2/repository/models/{model:path}/load", load, methods=["POST"]),
    ModelRoute("/v2/repository/models/{model:path}/unload", unload, methods=["POST"]),
    *(Route(path, not_served, methods=["GET", "POST"]) for path in NOT_SERVED_PATHS),
    *_of_model("/infer", Watched("v2-http", model_infer), "POST"),
    *_of_model("/ready", model_ready, "GET"),
    *_of_model("/config", config, "GET"),
    *_of_model("/stats", statistics, "GET"),
    *_of_model("", metadata, "GET"),
]
