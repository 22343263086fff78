"""CORS: web pages of the origins in MUNET_CORS_ORIGINS may ask and read the answers; others not.

Their requests need a token like all others: cookies and other things that browsers add are ignored.
"""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

READABLE = (
    *("inference-header-content-length", "retry-after", "server-timing", "x-request-id"),
    "www-authenticate",
)


class Browsers:
    """ASGI middleware; does nothing while no origin is set."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._cors: ASGIApp | None = None  # made when the settings are known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the preflight requests of browsers, and says which origins may read answers."""
        if scope["type"] == "http" and self._cors is None:
            self._cors = self._made(scope["app"].state.runtime.access.pages)
        await (self._cors or self._app)(scope, receive, send)

    def _made(self, pages: frozenset[str]) -> ASGIApp:
        if not pages:
            return self._app
        return CORSMiddleware(
            self._app,
            allow_origins=sorted(pages),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=READABLE,
        )
