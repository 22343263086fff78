"""Sends requests past an outer app, which only runs the lifespan."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class Direct:
    """A middleware of the outer app that sends every request straight to the inner one.

    It is one of the middlewares only to be there when the outer app, a Starlette, starts: the call
    for its `lifespan` goes through all of them. From then on it stands before the first, and no
    request reaches a middleware, a route or a page of the outer app. The outer app still runs the
    inner one's `lifespan`.
    """

    def __init__(self, app: ASGIApp, inner: ASGIApp) -> None:
        self._app = app
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the lifespan on."""
        if scope["type"] == "lifespan":
            outer = scope["app"]
            outer.middleware_stack = self._before(outer.middleware_stack)
        await self._app(scope, receive, send)

    def _before(self, middlewares: ASGIApp) -> ASGIApp:
        async def choose(scope: Scope, receive: Receive, send: Send) -> None:
            requested = scope["type"] != "lifespan"
            await (self._inner if requested else middlewares)(scope, receive, send)

        return choose
