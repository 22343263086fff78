"""The OpenAPI description of /v2/…, and the parts of such descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_store.versions import ALIAS_PATTERN
from service.open_inference.models import OUTPUTS

Content = dict[str, Any]
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
NAME = {
    "type": "string",
    "pattern": r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
    "maxLength": 200,
    "description": "A task; the slashes in its name may be written as %2F.",
}
MEANINGS = {
    400: "not what was expected",
    401: "a token is needed",
    403: "the token does not allow this",
    404: "no such task or version",
    408: "the body did not arrive in time",
    413: "too large",
    415: "no such content type",
    422: "an unusable parameter",
    429: "too much of this task waits, or the token has asked too often",
    500: "a fault of the gateway",
    501: "not supported",
    503: "not now",
    504: "the deadline passed",
}


def obj(properties: Content, *required: str) -> Content:
    """An object."""
    return {"type": "object", "properties": properties, "required": list(required)}


def array(items: Content) -> Content:
    """A list."""
    return {"type": "array", "items": items}


def reply(schema: Content, media: str = "application/json") -> Content:
    """An answer with 200."""
    return {"description": "done", "content": {media: {"schema": schema}}}


def body(schema: Content, *, required: bool = False) -> Content:
    """A request's JSON."""
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def operation(
    summary: str,
    answer: Content,
    refusals: Sequence[int],
    parameters: Sequence[Content] = (),
    request: Content | None = None,
) -> Content:
    """A call, what it answers, and with which statuses it is refused."""
    responses: Content = {"200": answer}
    for status in refusals:
        responses[str(status)] = {"description": MEANINGS[status], "content": PROBLEM}
    found: Content = {"summary": summary, "parameters": list(parameters), "responses": responses}
    return found if request is None else {**found, "requestBody": request}


TEXT, FLAG = {"type": "string"}, {"type": "boolean"}
NATURAL = {"type": "integer", "minimum": 0}
PARAMETERS = {"type": "object", "additionalProperties": {"type": ["boolean", "number", "string"]}}
SHAPE = array({"type": "integer"})
DURATION = obj({"count": NATURAL, "ns": NATURAL}, "count", "ns")
MODEL = {"name": "model", "in": "path", "required": True, "schema": NAME}
NUMBER_OR_NAME = {"type": "string", "pattern": f"^([1-9][0-9]{{0,8}}|{ALIAS_PATTERN})$"}
VERSION = {"name": "version", "in": "path", "required": True, "schema": NUMBER_OR_NAME}
INPUT = obj(
    {
        "name": {"enum": ["image", "pixels", "preprocessed"]},
        "datatype": {"enum": ["BYTES", "UINT8", "FP32"]},
        "shape": {**array({"type": "integer", "minimum": 1}), "minItems": 1, "maxItems": 4},
        "parameters": PARAMETERS,
        "data": {"type": "array"},
    },
    *("name", "datatype", "shape"),
)
WANTED = obj({"name": {"enum": list(OUTPUTS)}, "parameters": PARAMETERS}, "name")
OUTPUT = obj(
    {
        "name": TEXT,
        "datatype": {"enum": ["FP32", "BYTES"]},
        "shape": SHAPE,
        "parameters": PARAMETERS,
        "data": {"type": "array"},
    },
    *("name", "datatype", "shape"),
)
TENSOR = obj({"name": TEXT, "datatype": TEXT, "shape": SHAPE}, "name", "datatype", "shape")
STATISTICS = obj(
    {
        "name": TEXT,
        "version": TEXT,
        "last_inference": NATURAL,
        "inference_count": NATURAL,
        "execution_count": NATURAL,
        "inference_stats": {"type": "object", "additionalProperties": DURATION},
        "batch_stats": array({"type": "object"}),
    },
    *("name", "version", "inference_count", "execution_count", "inference_stats", "batch_stats"),
)
INDEXED = obj(
    {
        "name": TEXT,
        "version": TEXT,
        "state": {"enum": ["READY", "LOADING", "UNAVAILABLE"]},
        "reason": TEXT,
    },
    *("name", "version", "state", "reason"),
)
SCHEMAS: Content = {
    "InferRequest": obj(
        {
            "id": {**TEXT, "maxLength": 256},
            "parameters": {
                **PARAMETERS,
                "properties": {
                    "depth": {**NATURAL, "description": "Of the output `features`: as of /embed."}
                },
            },
            "inputs": {**array(INPUT), "minItems": 1, "maxItems": 1},
            "outputs": {**array(WANTED), "maxItems": len(OUTPUTS)},
        },
        "inputs",
    ),
    "InferResponse": obj(
        {"model_name": TEXT, "model_version": TEXT, "id": TEXT, "outputs": array(OUTPUT)},
        *("model_name", "model_version", "outputs"),
    ),
    "ModelMetadata": obj(
        {
            "name": TEXT,
            "versions": array(TEXT),
            "platform": TEXT,
            "inputs": array(TENSOR),
            "outputs": array(TENSOR),
        },
        *("name", "versions", "platform", "inputs", "outputs"),
    ),
    "Statistics": obj({"model_stats": array(STATISTICS)}, "model_stats"),
}
READS = (401, 403, 404, 429, 503)
VERSIONED = (400, *READS)
INFERS = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 501, 503, 504)
CONTROL = (400, 401, 403, 404, 408, 413, 501, 503)
HEADER_SIZE = {
    "name": "inference-header-content-length",
    "in": "header",
    "description": "Bytes of JSON before binary data; 0 where the body is one image file.",
    "schema": {**NATURAL, "maximum": 999_999_999},
}
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def ref(name: str) -> Content:
    """One of the schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def _state(name: str, summary: str, key: str) -> Content:
    """A probe, whose answer says the same as its status."""
    content = {"application/json": {"schema": obj({key: FLAG}, key)}}
    responses = {status: {"description": name, "content": content} for status in ("200", "503")}
    return {"get": {"summary": summary, "responses": responses}}


def _ready(parameters: Sequence[Content], refusals: Sequence[int]) -> Content:
    """A model's probe, which may also be refused."""
    schema = obj({"name": TEXT, "ready": FLAG}, "name", "ready")
    found = operation("Whether a model answers", reply(schema), refusals, parameters)
    found["responses"]["503"]["content"] = {**PROBLEM, "application/json": {"schema": schema}}
    return {"get": found}


def _of_model(prefix: str, parameters: Sequence[Content], refusals: Sequence[int]) -> Content:
    """The calls that name a model, or a version of it."""
    infer = operation(
        "Classify images",
        reply(ref("InferResponse")),
        INFERS,
        [*parameters, HEADER_SIZE],
        body(ref("InferRequest"), required=True),
    )
    for place in (infer["requestBody"], infer["responses"]["200"]):
        place["content"].update(BINARY)
    metadata = operation("Its tensors", reply(ref("ModelMetadata")), refusals, parameters)
    config = operation("Its configuration", reply({"type": "object"}), refusals, parameters)
    stats = operation("Its statistics", reply(ref("Statistics")), refusals, parameters)
    return {
        prefix: {"get": metadata},
        f"{prefix}/ready": _ready(parameters, refusals),
        f"{prefix}/config": {"get": config},
        f"{prefix}/stats": {"get": stats},
        f"{prefix}/infer": {"post": infer},
    }


DONE = reply({"type": "object"})
LOAD = body(obj({"parameters": {"type": "object"}}))
MODELS = reply(obj({"models": array(TEXT)}, "models"))
PATHS: Content = {
    "/v2": {
        "get": operation(
            "Name, version and extensions",
            reply(obj({"name": TEXT, "version": TEXT, "extensions": array(TEXT)}, "name")),
            (),
        )
    },
    "/v2/health/live": _state("live", "Whether the process works", "live"),
    "/v2/health/ready": _state("ready", "Whether requests should be sent here", "ready"),
    "/v2/models": {"get": operation("Names of all models", MODELS, READS)},
    "/v2/models/stats": {"get": operation("All statistics", reply(ref("Statistics")), READS)},
    **_of_model("/v2/models/{model}", [MODEL], READS),
    **_of_model("/v2/models/{model}/versions/{version}", [MODEL, VERSION], VERSIONED),
    "/v2/repository/index": {
        "post": operation(
            "Every model and its state",
            reply(array(INDEXED)),
            CONTROL,
            (),
            body(obj({"ready": FLAG})),
        )
    },
    "/v2/repository/models/{model}/load": {
        "post": operation("Load a model", DONE, CONTROL, [MODEL], LOAD)
    },
    "/v2/repository/models/{model}/unload": {
        "post": operation("Unload a model", DONE, CONTROL, [MODEL], LOAD)
    },
}
