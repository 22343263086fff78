"""The gateway's app in this process, with all its parts and a client that blocks."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from starlette.applications import Starlette

from model_store import ModelStore
from service.app import create_app
from service.settings import Settings
from tests.service.waiting import eventually

OCTETS = {"content-type": "application/octet-stream"}


class Gateway:
    """The app with its parts running, and a client that blocks."""

    def __init__(self, store: ModelStore, compilations: str, **settings: Any) -> None:
        self.store = store
        options = {
            "max_batch_rows": 4,
            "poll_s": 0.05,
            "compilation_cache": compilations,
            "compute_threads": 1,  # so that one batch can hold the engine up
        }
        self.app: Starlette = create_app(Settings(store.url, **{**options, **settings}))
        self.runner = asyncio.Runner()
        self.lifespan = self.app.router.lifespan_context(self.app)
        self.runner.run(self.lifespan.__aenter__())
        runtime = self.app.state.runtime
        # The first try is over, if it can be made: it counts in no test.
        eventually(
            lambda: runtime.first_answer.given
            or runtime.first_answer._told
            or not runtime.catalog.ready
        )

    def close(self) -> None:
        self.runner.run(self.lifespan.__aexit__(None, None, None))
        self.runner.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            # Crashes become answers, as a server makes them.
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                return await client.request(method, path, **options)

        return self.runner.run(ask())

    def classify(self, task: str, body: bytes, query: str = "", **headers: str) -> httpx.Response:
        headers = {**OCTETS, **{key.replace("_", "-"): value for key, value in headers.items()}}
        return self.request("POST", f"/classify/{task}{query}", content=body, headers=headers)

    def get(self, path: str) -> Any:
        return self.request("GET", path).json()

    def metric(self, line: str) -> float:
        found = [
            float(text.rsplit(" ", 1)[1])
            for text in self.request("GET", "/metrics").text.splitlines()
            if text.startswith(line + " ")
        ]
        return found[0] if found else 0.0


def refused(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Checks the form that every refusal has."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"urn:munet:problem:{kind}"
    assert body["status"] == status
    assert body["title"] and body["detail"]
    assert body["error"] == body["detail"]
    assert body["instance"].startswith("/")
    assert ("retry-after" in response.headers) == (status in (429, 503))
    return body
