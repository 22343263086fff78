"""A way past the middlewares of an outer app, for requests that need none of them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send


class Direct:
    """A middleware of the outer app that sends requests below some paths straight to the inner.

    It is one of the middlewares only to be there when the outer app, a Starlette, starts: the call
    for its `lifespan` goes through all of them. From then on it stands before the first. The outer
    app still runs the inner one's `lifespan`; its limits and its reports do not see the requests.
    """

    def __init__(self, app: ASGIApp, inner: ASGIApp, paths: Sequence[str]) -> None:
        """`paths` are beginnings of paths."""
        self._app = app
        self._inner = inner
        self._paths = tuple(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on."""
        if scope["type"] == "lifespan":
            outer = scope["app"]
            outer.middleware_stack = self._before(outer.middleware_stack)
        await self._app(scope, receive, send)

    def _before(self, middlewares: ASGIApp) -> ASGIApp:
        async def choose(scope: Scope, receive: Receive, send: Send) -> None:
            direct = scope["type"] == "http" and scope["path"].startswith(self._paths)
            await (self._inner if direct else middlewares)(scope, receive, send)

        return choose
