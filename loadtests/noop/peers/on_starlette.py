"""The no-op as a bare Starlette app: what HTTP, routing and JSON cost anybody in Python."""

from __future__ import annotations

from answer import ANSWER
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def noop(request: Request) -> JSONResponse:
    """POST /noop"""
    await request.body()
    return JSONResponse(ANSWER)


async def ready(request: Request) -> Response:
    """GET /ready"""
    return Response()


app = Starlette(routes=[Route("/noop", noop, methods=["POST"]), Route("/ready", ready)])
