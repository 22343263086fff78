"""GET /openapi.json: what every call over HTTP takes and answers, as data."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from service import VERSION
from service.metrics.openmetrics import MEDIA_TYPE as OPENMETRICS
from service.open_inference import openapi as v2
from service.open_inference.openapi import NAME, Content, array, obj, operation, ref, reply
from service.request import STAGES, TOTAL
from service.telemetry.logs import LEVELS, OWN, QUIET

NUMBER, TEXT = {"type": "number"}, {"type": "string"}
NATURAL = {"type": "integer", "minimum": 0}
DEADLINE = {
    "name": "munet-deadline-ms",
    "in": "header",
    "description": "For how many milliseconds the client can use the answer.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}
PRIORITY = {
    "name": "munet-priority",
    "in": "header",
    "description": "1 is the most urgent.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}
TOP_K = {
    "name": "top_k",
    "in": "query",
    "description": "How many classes are listed at most; if not given 5 of a task with the "
    "activation softmax, all of one with sigmoid.",
    "schema": {"type": "integer", "minimum": 1},
}
MIN_PROBABILITY = {
    "name": "min_probability",
    "in": "query",
    "description": "Less probable classes are not listed; `abstained` says whether none is. The "
    "task's own one if not given.",
    "schema": {"type": "number", "minimum": 0, "maximum": 1},
}
LABEL = {
    "name": "label",
    "in": "query",
    "description": "A label that the image has, if you know it; more than one for the activation "
    "sigmoid. During a roll-out it is counted whether the answers are right.",
    "schema": array(TEXT),
}
DEPTH = {
    "name": "depth",
    "in": "query",
    "description": "How many transformer blocks the features have been through, 0 to all; all if "
    "not given.",
    "schema": NATURAL,
}
VERSION_QUERY = {
    "name": "version",
    "in": "query",
    "description": "A version's number or the name of one; the live one if not given.",
    "schema": {"type": "string", "minLength": 1},
}
AFTER = {
    "name": "after",
    "in": "query",
    "description": "`next` of the page before.",
    "schema": {"type": "string"},
}
LIMIT = {
    "name": "limit",
    "in": "query",
    "description": "The most tasks of a page.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 500},
}
TASK = {"name": "task", "in": "path", "required": True, "schema": NAME}
TASKS = {
    "name": "task",
    "in": "query",
    "required": True,
    "schema": {**array(NAME), "minItems": 1, "uniqueItems": True},
}
IMAGE = {
    "required": True,
    "description": "An image file: PNG, JPEG, WebP, BMP or GIF.",
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": obj({"file": {"type": "string", "format": "binary"}}, "file")
        },
    },
}
REFUSALS = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
READS = (401, 403, 404, 422, 429, 503)
PROBABILITY = {
    **NUMBER,
    "minimum": 0,
    "maximum": 1,
    "description": "Of a task with the activation softmax those of all classes are 1 together; "
    "with sigmoid each label has one of its own. Of the logits divided by the version's "
    "temperature.",
}
TIMES = obj({stage: NUMBER for stage in (*STAGES, TOTAL)}, *STAGES, TOTAL)
HEALTHY = {"text/plain": {"schema": {"type": "string"}}}
METRICS = {**HEALTHY, OPENMETRICS: {"schema": {"type": "string"}}}

SCHEMAS: Content = {
    "Problem": obj(
        {
            "type": TEXT,
            "title": TEXT,
            "status": {"type": "integer"},
            "detail": TEXT,
            "error": {**TEXT, "description": "The detail, where v2 clients look for it."},
            "instance": TEXT,
            "nearest": array(TEXT),
        },
        *("type", "title", "status", "detail", "error"),
    ),
    "Prediction": obj(
        {"label": TEXT, "index": NATURAL, "probability": PROBABILITY},
        *("label", "index", "probability"),
    ),
    "Answer": obj(
        {
            "task": TEXT,
            "version": NATURAL,
            "predictions": array({"$ref": "#/components/schemas/Prediction"}),
            "abstained": {
                "type": "boolean",
                "description": "Where there is a `min_probability` above 0, of the request or of "
                "the task: whether no class is as probable.",
            },
            "timing_ms": TIMES,
        },
        *("task", "version", "predictions"),
    ),
    "Embedding": obj(
        {
            "task": TEXT,
            "version": NATURAL,
            "depth": NATURAL,
            "features": array(NUMBER),
            "timing_ms": TIMES,
        },
        *("task", "version", "depth", "features"),
    ),
    "Task": obj(
        {
            "id": TEXT,
            "state": {"enum": ["cold", "loading", "ready", "failed"]},
            "version": NATURAL,
            "live_version": NATURAL,
            "reason": TEXT,
            "classes": NATURAL,
            "activation": {
                "enum": ["softmax", "sigmoid", None],
                "description": "softmax: a picture has one class; sigmoid: any number of labels; "
                "null: one that this gateway does not know. Absent where the version cannot be "
                "read.",
            },
            "temperature": {
                **NUMBER,
                "description": "What the version's logits are divided by before they become "
                "probabilities, in the description of one task; 1 if none was fitted.",
            },
            "min_probability": {
                **NUMBER,
                "description": "Below which answers abstain unless a request says otherwise, in "
                "the description of one task; 0: never.",
            },
        },
        *("id", "state", "version", "live_version"),
    ),
    **v2.SCHEMAS,
}


def health(summary: str) -> Content:
    """A probe."""
    return {
        "get": {
            "summary": summary,
            "responses": {
                "200": {"description": "yes", "content": HEALTHY},
                "503": {"description": "no", "content": HEALTHY},
            },
        }
    }


URGENCY = [DEADLINE, PRIORITY]
CLASSIFY = [TOP_K, MIN_PROBABILITY, *URGENCY]
EMBED = [DEPTH, *URGENCY]


def several(one: str) -> Content:
    """Answers of several tasks, each of this schema or a problem."""
    problem = obj({"task": TEXT, "problem": {}}, "task", "problem")
    results = array({"anyOf": [ref(one), problem]})
    return reply(obj({"results": results, "timing_ms": TIMES}, "results", "timing_ms"))


ADMIN = (401, 403, 422, 429)
LEVEL = {
    "name": "level",
    "in": "query",
    "required": True,
    "description": "What is below it is not told.",
    "schema": {"enum": list(LEVELS)},
}
LOGGER = {
    "name": "logger",
    "in": "query",
    "description": "Whose; service, the gateway's own, if not given.",
    "schema": {"enum": [*OWN, *QUIET]},
}
LOG_LEVELS = reply({"type": "object", "additionalProperties": {"enum": list(LEVELS)}})
DUMP = reply(
    obj(
        {
            "process": NATURAL,
            "queue": {"type": "object"},
            "threads": array(obj({"thread": TEXT, "frames": array(TEXT)}, "thread", "frames")),
        },
        *("process", "queue", "threads"),
    )
)
ONLY_TASKS = {
    "name": "task",
    "in": "query",
    "description": "Series of other tasks are left out; may be given several times.",
    "schema": array(TEXT),
}
LISTED = reply(obj({"tasks": array(ref("Task")), "next": TEXT}, "tasks"))
COMPONENT = obj(
    {
        "digest": TEXT,
        "bytes": NATURAL,
        "tasks": {**NATURAL, "description": "How many tasks have it."},
        "state": {"enum": ["resident", "loading", "failed", "absent"]},
    },
    *("digest", "bytes", "tasks", "state"),
)
SYSTEM = reply(
    obj(
        {
            "you": {"type": "object"},
            "tasks": array(ref("Task")),
            "components": array(COMPONENT),
            "next": TEXT,
        },
        *("you", "tasks", "components"),
    )
)
EVENTS = reply(TEXT, "text/event-stream")
PATHS: Content = {
    "/classify/{task}": {
        "post": operation(
            "Classify an image",
            reply(ref("Answer")),
            REFUSALS,
            [TASK, VERSION_QUERY, LABEL, *CLASSIFY],
            IMAGE,
        )
    },
    "/classify": {
        "post": operation(
            "Classify an image for several tasks",
            several("Answer"),
            REFUSALS,
            [TASKS, *CLASSIFY],
            IMAGE,
        )
    },
    "/embed/{task}": {
        "post": operation(
            "Features of an image",
            reply(ref("Embedding")),
            REFUSALS,
            [TASK, VERSION_QUERY, *EMBED],
            IMAGE,
        )
    },
    "/embed": {
        "post": operation(
            "Features of an image, of several tasks",
            several("Embedding"),
            REFUSALS,
            [TASKS, *EMBED],
            IMAGE,
        )
    },
    "/tasks": {"get": operation("List tasks", LISTED, READS, [AFTER, LIMIT])},
    "/tasks/{task}": {"get": operation("Describe a task", reply(ref("Task")), READS, [TASK])},
    "/system": {"get": operation("Tasks, paths and components", SYSTEM, READS, [AFTER, LIMIT])},
    "/system/events": {"get": operation("Changes of the system", EVENTS, READS)},
    "/livez": health("Whether the process works"),
    "/healthz": health("Whether the process works"),
    "/readyz": health("Whether requests should be sent here"),
    "/admin/log": {
        "get": operation("Levels of the log, for admins", LOG_LEVELS, ADMIN),
        "put": operation("Set a level of the log, for admins", LOG_LEVELS, ADMIN, [LEVEL, LOGGER]),
    },
    "/admin/dump": {
        "get": operation("Stacks of all threads, and the queue, for admins", DUMP, ADMIN)
    },
    "/metrics": {
        "get": {
            "summary": "Metrics for Prometheus",
            "parameters": [ONLY_TASKS],
            "responses": {"200": {"description": "metrics", "content": METRICS}},
        }
    },
    **v2.PATHS,
}
DOCUMENT: Content = {
    "openapi": "3.1.0",
    "info": {"title": "munet gateway", "version": VERSION},
    "paths": PATHS,
    "components": {
        "schemas": SCHEMAS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
    "security": [{}, {"token": []}],
}


_BODY = json.dumps(DOCUMENT).encode()


async def openapi(request: Request) -> Response:
    """GET /openapi.json"""
    del request
    return Response(_BODY, media_type="application/json")
