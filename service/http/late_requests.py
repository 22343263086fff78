"""Requests that the event loop cannot handle in time are refused before any work on them.

An ordinary refusal costs the loop a part of an answer. Beyond some load the loop would do nothing
but refuse, and everybody would wait. The refusals here cost a fraction of that.

While more comes than the loop can do, some requests have to be refused. A queue before the loop
would only make the admitted ones wait: it does not get shorter. So requests that have waited LATE_S
longer than a turn of the loop are refused until no queue stands. As many requests are answered, and
all clients hear early. A loop that gets too little processor time has long turns and no queue: it
refuses requests that have waited for a quarter of their deadline.
"""

from __future__ import annotations

import time

from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Unavailable
from service.http import problems
from service.http.classify import DEADLINE_HEADER
from service.http.loop_delay import ARRIVED, LATE_S, LOOP
from service.request import Request, Timings, Watch
from service.runtime import Runtime

OURS = ("/classify", "/embed")
MODELS, INFER = "/v2/models/", "/infer"
RETRY_AFTER_S = 1.0
MOST_WAITED = 0.25  # of a deadline


class Shedding:
    """ASGI middleware; does nothing while the loop is in time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what can still be answered."""
        arrived = scope.get(ARRIVED)
        if arrived is None or time.monotonic() - arrived < LATE_S or not _classifies(scope):
            return await self._app(scope, receive, send)
        runtime: Runtime = scope["app"].state.runtime
        now = time.monotonic()
        deadline_s = _deadline_s(scope, runtime)
        refusal = _refusal(now - arrived, LOOP.seconds(now), deadline_s, now)
        if refusal is None:
            return await self._app(scope, receive, send)
        runtime.batcher.missed()
        LOOP.missed()
        protocol = "http" if scope["path"].startswith(OURS) else "v2-http"
        request = Request(protocol, (_task(scope["path"]),), Timings(arrived))
        with Watch(request, *runtime.counters):
            request.patience_s = deadline_s
            request.refused(refusal)
            response = await problems.problem(HttpRequest(scope), refusal)
            await response(scope, receive, send)


def _classifies(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] == "POST" and (
        path.startswith(OURS) or (path.startswith(MODELS) and path.endswith(INFER))
    )


def _task(path: str) -> str:
    """The task, as far as the path alone tells."""
    for call in OURS:
        path = path.removeprefix(call + "/")
    return path.removeprefix(MODELS).removesuffix(INFER)


def _deadline_s(scope: Scope, runtime: Runtime) -> float:
    most = runtime.settings.deadline_ms
    text = Headers(scope=scope).get(DEADLINE_HEADER, "")
    own = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    return min(own or most, most) / 1e3


def _refusal(waited_s: float, turn_s: float, deadline_s: float, now: float) -> Unavailable | None:
    """Why to refuse a request that waited `waited_s`, if a turn takes `turn_s`; None: do not."""
    if waited_s + turn_s > deadline_s:
        detail = (
            f"overloaded: the request waited {waited_s:.3f} s to be read and may wait {turn_s:.3f} "
            f"s more, and its deadline is {deadline_s:g} s after it came"
        )
    elif waited_s > min(LATE_S + turn_s, MOST_WAITED * deadline_s) and LOOP.overloaded(now):
        detail = f"overloaded: more requests come than can be read; this waited {waited_s:.3f} s"
    else:
        return None
    return Unavailable(detail, retry_after_s=RETRY_AFTER_S)
