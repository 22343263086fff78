"""Calls for admins on call: the levels of the log, and what the gateway does at this moment."""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.errors import BadParameter
from service.http.queries import query
from service.runtime import Runtime
from service.telemetry import dump, logs

logger = logging.getLogger(__name__)


def _runtime(request: Request) -> Runtime:
    """Raises Unauthenticated or Forbidden unless an admin asks."""
    runtime: Runtime = request.app.state.runtime
    runtime.access.of(request.scope).require_admin()
    return runtime


async def levels(request: Request) -> Response:
    """GET /admin/log"""
    _runtime(request)
    query(request)
    return JSONResponse(logs.levels())


async def set_level(request: Request) -> Response:
    """PUT /admin/log"""
    runtime = _runtime(request)
    found = query(request, "level", "logger")
    if "level" not in found:
        raise BadParameter(f"level: expected one of {', '.join(logs.LEVELS)}, found none")
    name, level = found.get("logger", "service"), found["level"].upper()
    runtime.reporting.levels.set(name, level)
    logger.warning("event=log_level_set logger=%s level=%s", name, level)
    return JSONResponse(logs.levels())


async def dumped(request: Request) -> Response:
    """GET /admin/dump"""
    runtime = _runtime(request)
    query(request)
    return JSONResponse(dump.made(runtime.batcher))


ROUTES = (
    Route("/admin/log", levels, methods=["GET"]),
    Route("/admin/log", set_level, methods=["PUT"]),
    Route("/admin/dump", dumped, methods=["GET"]),
)
