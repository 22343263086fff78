"""A gateway of a few lines on its own thread: real sockets, scripted behaviour per task."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest


class FakeGateway:
    """Behaves by the task's name; a task `slow/*` holds the only worker for `stage_s` seconds."""

    def __init__(self, tasks: tuple[str, ...], stage_s: float) -> None:
        self.tasks = tasks
        self.stage_s = stage_s
        self.url = ""
        self.posts: list[tuple[str, str, bytes]] = []  # task, content type, body
        self.in_flight = 0
        self.most_in_flight = 0
        self.offers_metrics = True
        self._worker = asyncio.Lock()
        self.forget()

    def forget(self) -> None:
        """Starts all metrics from zero, as a restart does."""
        self.registry = CollectorRegistry()
        self.stages = Histogram(
            "munet_stage_duration_seconds",
            "Seconds",
            ["stage", "outcome"],
            registry=self.registry,
            buckets=(0.01, 0.1, 1, 10),
        )
        self.rows = Histogram("munet_batch_rows", "Rows", registry=self.registry, buckets=(1, 2, 4))
        self.padded = Counter("munet_batch_padded_rows", "Rows", registry=self.registry)

    async def classify(self, request: web.Request) -> web.StreamResponse:
        """POST /classify/{task}."""
        task = request.match_info["task"]
        self.posts.append((task, request.content_type, await request.read()))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(request, task)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: web.Request, task: str) -> web.StreamResponse:
        match task.partition("/")[0]:
            case "slow":
                async with self._worker:
                    await asyncio.sleep(self.stage_s)
                self.stages.labels("execute", "answered").observe(self.stage_s)
            case "hanging":
                await asyncio.sleep(self.stage_s)
            case "busy":
                return web.json_response({"error": "overloaded"}, status=503)
            case "moved":
                raise web.HTTPTemporaryRedirect("http://203.0.113.1/")
            case "cut" if request.transport is not None:
                request.transport.abort()
            case "confused":
                task = "another"
            case "restarting":
                self.forget()
        self.rows.observe(3)
        self.padded.inc()
        return web.json_response({"task": task, "predictions": [{"label": "a", "index": 0}]})

    async def listing(self, _: web.Request) -> web.Response:
        """GET /tasks."""
        return web.json_response({"tasks": [{"id": task, "state": "ready"} for task in self.tasks]})

    async def metrics(self, _: web.Request) -> web.Response:
        """GET /metrics."""
        if not self.offers_metrics:
            raise web.HTTPNotFound
        return web.Response(body=generate_latest(self.registry))


@contextmanager
def fake_gateway(*tasks: str, stage_s: float = 0.05) -> Iterator[FakeGateway]:
    """Serves on a free loopback port until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait(coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=20)

    gateway = FakeGateway(tasks, stage_s)
    app = web.Application()
    app.router.add_post("/classify/{task:.+}", gateway.classify)
    app.router.add_get("/tasks", gateway.listing)
    app.router.add_get("/metrics", gateway.metrics)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    try:
        wait(runner.setup())
        wait(web.TCPSite(runner, "127.0.0.1", 0).start())
        gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield gateway
    finally:
        wait(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=20)
        loop.close()
