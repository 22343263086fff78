"""Refusals as `application/problem+json` (RFC 9457), with a member `error` for v2 clients.

Handlers are coroutines, though they wait for nothing: Starlette runs other handlers in threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from service.errors import GatewayError, InternalError, Unauthenticated, UnknownTask, UploadTimeout

MEDIA_TYPE = "application/problem+json"
SHOWN_CHARACTERS = 200  # of the path


async def problem(request: Request, error: GatewayError) -> JSONResponse:
    """The answer to a refused request."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, UploadTimeout):  # the rest would come as slowly
        headers["connection"] = "close"
    return _respond(request, error.status, content(error), headers)


def content(error: GatewayError) -> dict[str, Any]:
    """The members that describe an error, wherever it stands in an answer."""
    extra = {"nearest": list(error.nearest)} if isinstance(error, UnknownTask) else {}
    return {**_members(error.status, error.kind, error.title, error.detail), **extra}


async def no_route(request: Request, error: HTTPException) -> JSONResponse:
    """What the router refuses: an unknown path, a wrong method."""
    title = HTTPStatus(error.status_code).phrase
    detail = f"{request.method[:20]} on this path: {title.lower()}"
    kind = title.lower().replace(" ", "-")
    members = _members(error.status_code, kind, title, detail)
    return _respond(request, error.status_code, members, dict(error.headers or {}))


async def crash(request: Request, error: Exception) -> JSONResponse:
    """Anything unforeseen; the cause goes to the log, not to the client."""
    del error
    return await problem(
        request, InternalError("an unexpected error; the server's log has the cause")
    )


def _members(status: int, kind: str, title: str, detail: str) -> dict[str, Any]:
    return {
        "type": f"urn:munet:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "error": detail,
    }


def _respond(
    request: Request, status: int, members: Mapping[str, Any], headers: Mapping[str, str]
) -> JSONResponse:
    instance = quote(request.scope["path"][:SHOWN_CHARACTERS])
    content = {**members, "instance": instance}
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)
