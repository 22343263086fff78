"""A closed loop of requests to one gateway, and what its metrics say meanwhile."""

from __future__ import annotations

import asyncio
import io
import json
import os
import platform
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image

from loadtests import exposition, report
from loadtests.client import Client, post
from loadtests.errors import GatewayError
from loadtests.gateways import Gateway

DEADLINE_MS = 10_000
IMAGES = 64  # distinct ones: answers for equal images in one batch would be shared
WAIT_S = 60.0


@dataclass(slots=True)
class Traffic:
    """What became of the requests of one loop."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)  # of answers with status 200

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return self.statuses[200] / self.seconds

    @property
    def failed(self) -> int:
        """Requests that were not answered with 200."""
        return self.statuses.total() - self.statuses[200]

    def quantile_s(self, q: float) -> float:
        """Of the latencies."""
        return float(np.quantile(self.latencies_s, q))


def pictures(side: int) -> list[bytes]:
    """Distinct PNG files of random pixels."""
    rng = np.random.default_rng(0)
    found: list[bytes] = []
    for _ in range(IMAGES):
        file = io.BytesIO()
        Image.fromarray(rng.integers(256, size=(side, side, 3), dtype=np.uint8)).save(file, "PNG")
        found.append(file.getvalue())
    return found


class Requests:
    """Requests for tasks, each with the next image."""

    def __init__(self, side: int) -> None:
        self.side = side  # of each image, in pixels
        self._pictures = pictures(side)
        self._count = 0

    def to(self, task: str) -> bytes:
        """One request to classify."""
        self._count += 1
        return post(task, self._pictures[self._count % IMAGES], DEADLINE_MS)


async def loop(
    client: Client, requests: Requests, tasks: Iterable[str], clients: int, seconds: float
) -> Traffic:
    """Asks for the tasks in this order, with a given number of requests always under way.

    Ends after `seconds`, or with the last task.
    """
    traffic = Traffic()
    names = iter(tasks)
    start = time.perf_counter()

    async def one() -> None:
        while (now := time.perf_counter()) < start + seconds:
            task = next(names, None)
            if task is None:
                return
            reply = await client.ask(requests.to(task), now)
            traffic.statuses[reply.status] += 1
            if reply.status == 200:
                traffic.latencies_s.append(reply.latency_s)

    await asyncio.gather(*(one() for _ in range(clients)))
    traffic.seconds = time.perf_counter() - start
    return traffic


def drive(
    gateway: Gateway, requests: Requests, tasks: Iterable[str], clients: int, seconds: float
) -> Traffic:
    """`loop` on connections of its own."""

    async def run() -> Traffic:
        client = Client(gateway.port)
        try:
            return await loop(client, requests, tasks, clients, seconds)
        finally:
            client.close()

    return asyncio.run(run())


def touch(gateway: Gateway, requests: Requests, tasks: Sequence[str]) -> list[float]:
    """Asks for each task once, one after the other; seconds to each answer.

    Raises GatewayError if one is not answered.
    """
    found = drive(gateway, requests, tasks, 1, WAIT_S + len(tasks))
    if found.statuses != {200: len(tasks)}:
        raise GatewayError(
            f"asking for {len(tasks)} tasks: expected each to answer, found "
            f"{dict(found.statuses)}; see {gateway.log}"
        )
    return found.latencies_s


def warm_up(gateway: Gateway, requests: Requests, task: str) -> None:
    """Asks until the task answers: programs may take longer to compile than a request may wait.

    Raises GatewayError if it does not answer in time.
    """
    end = time.monotonic() + WAIT_S
    while not drive(gateway, requests, [task], 1, WAIT_S).statuses[200]:
        if time.monotonic() > end:
            raise GatewayError(
                f"asking for {task}: expected an answer within {WAIT_S:g} s; see {gateway.log}"
            )
        time.sleep(0.1)


def samples(gateway: Gateway) -> exposition.Samples:
    """The gateway's metrics."""
    with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=WAIT_S) as response:
        return exposition.parse(response.read().decode())


def value(found: exposition.Samples, name: str) -> float:
    """A metric without labels."""
    return found[exposition.Series(name)]


def json_line(setup: Any, result: Any) -> str:
    """One run as a line of JSON, with the commit and the machine."""
    about = {
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": {
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "commit": report.commit(),
    }
    return json.dumps({"setup": setup, "result": result, **about}, allow_nan=False)
