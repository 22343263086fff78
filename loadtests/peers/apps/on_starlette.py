"""What one writes without a model server: Starlette, two threads, a session a task.

BATCHES=N: N threads instead that each take what waits, run what the tasks share once for all of it,
and then each task's own part.
"""

# It runs in an environment of its own (make peers).
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import json
import os
import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import uvicorn
from models import Models, best, decode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

BATCHES = int(os.environ.get("BATCHES", "0"))
MOST_ROWS = 32
models = Models()
pool = ThreadPoolExecutor(2)
waiting: queue.SimpleQueue[tuple[str, Any, asyncio.Future[bytes]]] = queue.SimpleQueue()


def answer(task: str, logits: Any) -> bytes:
    """The body."""
    return json.dumps({"task": task, "predictions": best(logits)}).encode()


def alone(task: str, body: bytes) -> bytes:
    """One request from its bytes to its answer."""
    return answer(task, models.logits([task], decode(body)[None])[0])


def enqueue(task: str, body: bytes, done: asyncio.Future[bytes]) -> None:
    """What can be done before a batch takes the row."""
    try:
        models.get(task)
        waiting.put((task, decode(body), done))
    except Exception as error:
        done.get_loop().call_soon_threadsafe(done.set_exception, error)


def run_batches() -> None:
    """Takes what waits, for as long as the server runs."""
    while True:
        rows = [waiting.get()]
        while len(rows) < MOST_ROWS and not waiting.empty():
            try:
                rows.append(waiting.get_nowait())
            except queue.Empty:  # another thread took it
                break
        tasks = [task for task, _, _ in rows]
        logits = models.logits(tasks, np.stack([x for _, x, _ in rows]))
        bodies = [answer(task, mine) for task, mine in zip(tasks, logits, strict=True)]
        finished = list(zip((done for _, _, done in rows), bodies, strict=True))
        rows[0][2].get_loop().call_soon_threadsafe(resolve, finished)


def resolve(finished: list[tuple[asyncio.Future[bytes], bytes]]) -> None:
    """On the event loop; a client may have gone meanwhile."""
    for done, body in finished:
        if not done.done():
            done.set_result(body)


async def classify(request: Request) -> Response:
    """POST /classify/{task}"""
    task, body = request.path_params["task"], await request.body()
    loop = asyncio.get_running_loop()
    if not BATCHES:
        found = await loop.run_in_executor(pool, alone, task, body)
    else:
        done: asyncio.Future[bytes] = loop.create_future()
        pool.submit(enqueue, task, body, done)
        found = await done
    return Response(found, media_type="application/json")


async def ready(request: Request) -> Response:
    """GET /readyz"""
    return Response()


app = Starlette(
    routes=[Route("/classify/{task:path}", classify, methods=["POST"]), Route("/readyz", ready)]
)
if __name__ == "__main__":
    for _ in range(BATCHES):
        threading.Thread(target=run_batches, daemon=True).start()
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
