"""Reports HTTP requests to the access log and the traces; wraps the app.

The id of a request is that in its header `x-request-id`, if it is a plain word, or a new one; the
answer has it too. Probes and scrapes are not reported: they would be most of every log. Admin calls
always are (`telemetry/audit.py`).
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.loop_delay import ARRIVED
from service.request import TRACEPARENT, Exchange, Report, exchanged
from service.telemetry import audit

REQUEST_ID = "x-request-id"
SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
TRACE_CONTEXT = (TRACEPARENT, "tracestate")
QUIET = frozenset({"/livez", "/healthz", "/readyz", "/metrics"})


def request_id(given: str | None) -> str:
    """The client's id of its request, or a new one."""
    return given if given and SANE_ID.fullmatch(given) else secrets.token_hex(16)


class Exchanges:
    """ASGI middleware; does nothing if no reports are set up."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and reports it when its answer is sent."""
        if scope["type"] != "http" or scope["path"] in QUIET:
            return await self._app(scope, receive, send)
        reports: Sequence[Report] = scope["app"].state.runtime.reporting.reports
        if audit.is_call(scope["path"]):
            reports = (*reports, audit.note)
        if not reports:
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        exchange = Exchange(
            method=scope["method"],
            path=scope["path"],
            client=(scope.get("client") or ("",))[0],
            request_id=request_id(headers.get(REQUEST_ID)),
            trace={name: headers[name] for name in TRACE_CONTEXT if name in headers},
            started=scope.get(ARRIVED) or time.monotonic(),
        )

        async def receive_counted() -> Message:
            message = await receive()
            exchange.bytes_in += len(message.get("body", b""))
            return message

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                named = (REQUEST_ID.encode(), exchange.request_id.encode())
                message = {**message, "headers": [*message.get("headers", ()), named]}
            exchange.bytes_out += len(message.get("body", b""))
            await send(message)

        with exchanged(reports, exchange):
            try:
                await self._app(scope, receive_counted, send_counted)
            finally:
                exchange.route = getattr(scope.get("route"), "path", None)
