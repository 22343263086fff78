"""The tasks as Ray Serve multiplexes models: a header names the one that a request is for."""

# It runs in an environment of its own (make peers).
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

MOST_MODELS = 10_000


@serve.deployment(max_ongoing_requests=128, ray_actor_options={"num_cpus": 1})
class Classifier:
    """One replica with two threads, as each further one would have all models again."""

    def __init__(self, folder: str) -> None:
        sys.path.insert(0, folder)
        import models  # not where the driver runs

        self.models = models
        self.pool = ThreadPoolExecutor(2)

    @serve.multiplexed(max_num_models_per_replica=MOST_MODELS)
    async def network(self, task: str) -> Any:
        """Loads a task's network, off the event loop."""
        loop, models = asyncio.get_running_loop(), self.models
        return await loop.run_in_executor(self.pool, models.load, models.file_of(task))

    def run(self, network: Any, body: bytes) -> list[dict[str, Any]]:
        """One request, in a thread."""
        return self.models.best(network(self.models.decode(body)[None])[0])

    async def __call__(self, request: Request) -> JSONResponse:
        """POST /"""
        task = serve.get_multiplexed_model_id()
        if not task:  # a probe
            return JSONResponse({})
        body, network = await request.body(), await self.network(task)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self.pool, self.run, network, body)
        return JSONResponse({"task": task, "predictions": found})


def main() -> None:
    """Serves until it is told to end, and then ends Ray's processes as well."""
    passed = {name: os.environ[name] for name in ("MODELS", "PIXELS")}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": passed},
        _node_ip_address="127.0.0.1",
    )
    quiet: Any = {"enable_access_log": False, "log_level": "WARNING"}
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, logging_config=quiet)
    serve.run(Classifier.bind(str(Path(__file__).resolve().parent)), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
