"""Requests over HTTP to the whole gateway under plain uvicorn, where its libraries are there."""

from __future__ import annotations

import http.client
import importlib.util
import io
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from loadtests.gpu.plans import Plan, Told, is_own, random_params, random_tree
from model_store import ModelStore, TaskPath
from vit import Architecture, shapes
from vit.preprocess import CONTRACT

TOP = Path(__file__).parents[2]
LIBRARIES = ("cryptography", "grpc", "obstore", "prometheus_client", "starlette", "uvicorn")
CLIENTS = 32
START_S = 180.0


class NotMeasured(Exception):
    """The machine lacks something; the message says what."""


def over_http(plan: Plan, name: str) -> Told:
    """Requests/s of each number of distinct tasks, with as many clients as keep it busy."""
    lacking = [library for library in LIBRARIES if not _is_installed(library)]
    if lacking:
        raise NotMeasured(f"the gateway's libraries {', '.join(lacking)} are not installed")
    arch = plan.networks[name]
    with tempfile.TemporaryDirectory() as folder:
        publish(Path(folder, "store"), arch, max(plan.tasks))
        with gateway(Path(folder, "store")) as port:
            served = {str(count): _rate(port, plan, arch, count) for count in plan.tasks}
    share = {count: rate / served["1"] for count, rate in served.items()}
    return {"requests_per_s": served, "of_one_task": share}


def _is_installed(library: str) -> bool:
    found = importlib.util.find_spec(library)
    return found is not None and found.origin is not None  # a stand-in comes from nowhere


def publish(place: Path, arch: Architecture, tasks: int) -> None:
    """A store of tasks named task/0, task/1 … that share all but adapters and head."""
    store, params = ModelStore(str(place), create=True), random_params(arch)
    shared = {name: store.put(params[name]) for name in arch.component_names}
    for task in range(tasks):
        own = {
            name: store.put(random_tree(shapes(arch, name), 1000 * task + number))
            for number, name in enumerate(arch.component_names)
            if is_own(name)
        }
        store.publish(TaskPath(
            task=f"task/{task}", labels=tuple(f"class {n}" for n in range(arch.num_classes)),
            architecture=arch.to_json(), components={**shared, **own},
            input={"size": arch.image_size, **CONTRACT}, hyperparameters={}, metrics={},
            parameters={}, lineage={},
        ))  # fmt: skip


@contextmanager
def gateway(store: Path) -> Iterator[int]:
    """The port of a gateway under uvicorn that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "service.app:create_app", "--factory"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "warning"],
        cwd=TOP,
        env={**os.environ, "MUNET_STORE": str(store), "MUNET_BACKEND": "jax"},
    )
    try:
        _wait(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise NotMeasured(f"the gateway ended with exit code {process.returncode}")
        try:
            if not _answer(_connection(port), "/readyz"):
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise NotMeasured(f"the gateway was not ready after {START_S:.0f} s")


def _answer(connection: http.client.HTTPConnection, path: str, body: bytes | None = None) -> str:
    """Empty for an answer, else what came instead."""
    headers = {"Content-Type": "image/png"} if body else {}
    connection.request("POST" if body else "GET", path, body, headers)
    response = connection.getresponse()
    told = response.read()
    return "" if response.status == 200 else f"{response.status} {told[:200]!r}"


def _rate(port: int, plan: Plan, arch: Architecture, tasks: int) -> float:
    side = arch.image_size
    bodies = [_png(side, seed) for seed in range(16)]
    for task in range(tasks):  # all are loaded before the time counts
        _load(port, f"/classify/task/{task}", bodies[0])
    share, failed = max(1, plan.requests // CLIENTS), list[str]()

    def client(number: int) -> None:
        connection = _connection(port)
        for turn in range(share):
            task, body = (number * share + turn) % tasks, bodies[turn % len(bodies)]
            if wrong := _answer(connection, f"/classify/task/{task}", body):
                failed.append(wrong)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    if failed:
        raise NotMeasured(f"{len(failed)} requests failed, such as {failed[0]}")
    return share * CLIENTS / took


def _load(port: int, path: str, body: bytes) -> None:
    """Asks until the task is there: its programs may have to be compiled first."""
    end = time.monotonic() + START_S
    while wrong := _answer(_connection(port), path, body):
        if time.monotonic() > end:
            raise NotMeasured(f"{path} answered {wrong}")
        time.sleep(0.2)


def _connection(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=300)


def _png(side: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()
