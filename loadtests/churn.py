"""Hot additions and removals under load, failing ones among them: what they do to requests, to
memory and to the number of series.

One change is a task added (its first request is answered), one added whose component is damaged
(its request is refused with 503, naming the reason), a new version of a task under load, or a
removal (its next request is refused with 404).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table

from loadtests import traffic
from loadtests.client import Client
from loadtests.errors import GatewayError
from loadtests.gateways import Gateway
from loadtests.systems import System, adapters_and_head, backbone, with_adapters
from loadtests.traffic import Requests, Traffic

LOADED = 8  # tasks under load
CLIENTS = 4
OWN = 0.03  # of all parameters
PATIENCE_S = 30.0  # for a change to reach the gateway
KINDS = ("add", "add", "damaged", "version", "remove", "remove", "remove")


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

    changes: int
    seconds: float  # over which they are spread, at least
    size: str = "Ti/16"
    image_size: int = 32


@dataclass(frozen=True, slots=True)
class Reading:
    """The gateway after a number of changes."""

    changes: int
    memory_bytes: int
    series: int


@dataclass(slots=True)
class Result:
    """The numbers of one run."""

    seconds: float = 0.0
    changes: dict[str, int] = field(default_factory=dict)  # by kind
    requests: int = 0
    failed: dict[int, int] = field(default_factory=dict)  # requests under load, by status
    latency_ms: tuple[float, float] = (math.nan, math.nan)  # p50 and p99 under load
    readings: list[Reading] = field(default_factory=list)

    def grown(self, start: float) -> tuple[float, float]:
        """Growth of memory and of the number of series from this part of the changes to the end;
        over the means of a tenth of the readings at each point.
        """
        few = max(1, len(self.readings) // 10)
        first = int(start * len(self.readings))
        before, after = self.readings[first : first + few], self.readings[-few:]
        memory = _mean(after, "memory_bytes") / _mean(before, "memory_bytes")
        return memory - 1, _mean(after, "series") / _mean(before, "series") - 1


def _mean(readings: list[Reading], name: str) -> float:
    return sum(getattr(reading, name) for reading in readings) / len(readings)


def measure(setup: Setup, say: Callable[[str], None]) -> Result:
    """Makes a store in a temporary folder, and starts one gateway on it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        arch = with_adapters(backbone(setup.size, image_size=setup.image_size), OWN)
        system = System(str(root / "store"), arch, adapters_and_head(arch))
        loaded = [f"loaded/{number}" for number in range(LOADED)]
        for number, task in enumerate(loaded):
            system.publish(task, number + 1)
        with Gateway(str(root / "store"), root / "home") as gateway:
            requests = Requests(setup.image_size)
            traffic.warm_up(gateway, requests, loaded[0])
            traffic.touch(gateway, requests, loaded)
            changes = _Changes(system, gateway, requests, loaded)
            return asyncio.run(_run(setup, gateway, requests, changes, say))


async def _run(
    setup: Setup,
    gateway: Gateway,
    requests: Requests,
    changes: _Changes,
    say: Callable[[str], None],
) -> Result:
    result = Result()
    client = Client(gateway.port)
    over = asyncio.Event()

    def tasks() -> Iterator[str]:
        for task in itertools.cycle(changes.loaded):
            if over.is_set():
                return
            yield task

    loop = asyncio.create_task(
        traffic.loop(client, requests, tasks(), CLIENTS, setup.seconds + setup.changes * PATIENCE_S)
    )
    start = time.monotonic()
    every = max(1, setup.changes // 100)
    try:
        for number, kind in zip(range(setup.changes), itertools.cycle(KINDS), strict=False):
            due = start + number * setup.seconds / setup.changes
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.to_thread(changes.make, kind, number)
            result.changes[kind] = result.changes.get(kind, 0) + 1
            if number % every == 0:
                result.readings.append(await asyncio.to_thread(_read, gateway, number))
                say(f"{number} of {setup.changes} changes")
    finally:
        over.set()
        traffic_seen = await loop
        client.close()
    _note(result, traffic_seen)
    return result


def _read(gateway: Gateway, changes: int) -> Reading:
    return Reading(changes, gateway.resident_bytes(), len(traffic.samples(gateway)))


def _note(result: Result, seen: Traffic) -> None:
    result.seconds = seen.seconds
    result.requests = seen.statuses.total()
    result.failed = {status: count for status, count in seen.statuses.items() if status != 200}
    result.latency_ms = (seen.quantile_s(0.5) * 1e3, seen.quantile_s(0.99) * 1e3)


class _Changes:
    """Changes of the store, each seen to have reached the gateway."""

    def __init__(
        self, system: System, gateway: Gateway, requests: Requests, loaded: list[str]
    ) -> None:
        self.loaded = loaded
        self._system = system
        self._gateway = gateway
        self._body = traffic.pictures(requests.side)[0]
        self._extra: list[str] = []

    def make(self, kind: str, number: int) -> None:
        """One change; a removal takes the task that was added first."""
        seed = LOADED + number + 1
        if kind == "version":
            self._system.publish(self.loaded[number % LOADED], seed)
        elif kind == "remove":
            task = self._extra.pop(0)
            self._system.store.rm(task)
            self._expect(task, 404)
        else:
            task = f"extra/{number}"
            self._system.publish(task, seed)
            self._extra.append(task)
            if kind == "damaged":
                self._damage(task)
            self._expect(task, 503 if kind == "damaged" else 200)

    def _damage(self, task: str) -> None:
        digest = self._system.store.resolve(task).path.components["head"]
        file = Path(self._system.store.url, "blobs/sha256", digest.removeprefix("sha256:"))
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)

    def _expect(self, task: str, status: int) -> None:
        """Asks until the answer has this status. Raises GatewayError if it never does."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self._ask(task)) != status:
            if time.monotonic() > deadline:
                raise GatewayError(
                    f"asking for {task}: expected status {status}, found {found} for "
                    f"{PATIENCE_S:g} s; see {self._gateway.log}"
                )
            time.sleep(0.01)

    def _ask(self, task: str) -> int:
        request = urllib.request.Request(
            f"{self._gateway.url}/classify/{task}",
            self._body,
            {"content-type": "image/png"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return response.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code


def render(result: Result) -> Table:
    """The numbers as a table."""
    table = Table("", "", title="Changes under load", show_header=False)
    first, last = result.readings[0], result.readings[-1]
    memory, series = result.grown(0.25)
    changes = ", ".join(f"{count} {kind}" for kind, count in result.changes.items())
    p50, p99 = result.latency_ms
    table.add_row("changes", f"{changes} in {result.seconds:.0f} s")
    table.add_row("requests under load", f"{result.requests}, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    table.add_row("of them failed", str(result.failed or "none"))
    table.add_row("memory", f"{first.memory_bytes / 1e6:.0f} to {last.memory_bytes / 1e6:.0f} MB")
    table.add_row("memory, from a quarter on", f"{memory:+.1%}")
    table.add_row("series", f"{first.series} to {last.series}")
    table.add_row("series, from a quarter on", f"{series:+.1%}")
    return table


def json_line(setup: Setup, result: Result) -> str:
    """The run as one line of JSON."""
    return traffic.json_line(asdict(setup), asdict(result))
