"""The measurement: capacity first and again between, then 1, 2, 5 and 10 times as much.

All rates of one load stand next to the capacity measured directly before and after it, since other
users of the machine come and go. A light task is measured alone and next to a flood, in turns.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from loadtests import systems
from loadtests.client import Client, Reply, closed_loop, open_loop, post
from loadtests.errors import OptionError
from loadtests.gateways import Gateway
from loadtests.workload import pictures

CLIENTS = 64  # of the closed loop: more rows than a batch
REFUSED = (429, 503)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is served and what is sent. Raises OptionError."""

    size: str = "Ti/16"
    image_size: int = 128
    layers: int = 12
    tasks: int = 16
    own: float = 0.03  # part of a task's parameters that is its own: adapters
    factors: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0)
    seconds: float = 8.0  # of each load
    deadline_ms: int = 1000
    light_rate: float = 2.0  # requests of the light task per second
    rounds: int = 3  # of the light task, alone and next to the flood
    seed: int = 0

    def __post_init__(self) -> None:
        """The light task needs another one."""
        if self.tasks < 2 or self.seconds <= 0 or self.rounds < 1 or self.deadline_ms < 1:
            raise OptionError(
                "checking options: expected at least 2 tasks, 1 round, a deadline of 1 ms and "
                f"seconds above 0, found {self}"
            )


@dataclass(frozen=True, slots=True)
class Overload:
    """One load of all tasks alike."""

    factor: float  # times the capacity
    capacity: float  # answers per second, mean of before and after
    offered: float  # requests per second
    goodput: float  # answers with status 200 within the deadline, per second
    accepted: int  # requests that were not refused with 429 or 503
    in_time: int  # of these, answered with 200 within the deadline
    statuses: dict[str, int]
    answer_p50_ms: float
    answer_p99_ms: float
    refusal_p50_ms: float | None  # None where none was refused
    refusal_p99_ms: float | None
    without_retry_after: int  # refusals that do not say when to come back
    client_lag_p99_ms: float
    client_cores: float  # processor time of the client per second


@dataclass(frozen=True, slots=True)
class Light:
    """The light task's answers, alone or next to the flood."""

    sent: int
    answered: int  # with status 200 within the deadline
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Result:
    """All numbers of one run."""

    setup: Setup
    loads: list[Overload]
    flood_rate: float  # offered requests per second of the task next to the light one
    flood_goodput: float
    alone: Light
    with_flood: Light


def measure(setup: Setup, say: Callable[[str], None]) -> Result:
    """Starts a gateway on a store of its own and measures it; about two minutes."""
    with tempfile.TemporaryDirectory(prefix="munet-flood-") as folder:
        say("publishing")
        store = Path(folder) / "store"
        arch = systems.backbone(setup.size, image_size=setup.image_size, layers=setup.layers)
        arch = systems.with_adapters(arch, setup.own)
        system = systems.System(str(store), arch, systems.adapters_and_head(arch))
        for number in range(setup.tasks):
            system.publish(_name(number), number + 1)
        say("starting a gateway")
        with Gateway(str(store), Path(folder) / "home", MUNET_PRELOAD="*") as gateway:
            return uvloop.run(_Run(setup, gateway.port, say).all())


def _name(number: int) -> str:
    return f"task-{number}"


class _Run:
    """One client and its random numbers."""

    def __init__(self, setup: Setup, port: int, say: Callable[[str], None]) -> None:
        self.setup = setup
        self.say = say
        self.client = Client(port)
        self.rng = np.random.default_rng(setup.seed)
        self.bodies = [picture.data for picture in pictures(None, self.rng)]

    async def all(self) -> Result:
        tasks = [_name(number) for number in range(self.setup.tasks)]
        try:
            await self.capacity(tasks)  # warm
            loads = await self.loads(tasks)
            alone, with_flood, flood_rate, flood = await self.light(*tasks[:2])
        finally:
            self.client.close()
        goodput = sum(self.good(flood)) / (self.setup.seconds * self.setup.rounds)
        return Result(
            self.setup, loads, flood_rate, goodput, self.line(alone), self.line(with_flood)
        )

    async def capacity(self, tasks: Sequence[str]) -> float:
        requests = [
            post(tasks[turn % len(tasks)], self.bodies[turn % len(self.bodies)], 10_000)
            for turn in range(len(tasks) * len(self.bodies))
        ]
        return await closed_loop(self.client, requests, CLIENTS, self.setup.seconds / 2)

    async def loads(self, tasks: Sequence[str]) -> list[Overload]:
        found = []
        before = await self.capacity(tasks)
        for factor in self.setup.factors:
            self.say(f"{factor:g} times {before:.0f} requests/s")
            began, used = time.perf_counter(), _processor_s()
            replies = await open_loop(self.client, self.schedule(tasks, factor * before))
            cores = (_processor_s() - used) / (time.perf_counter() - began)
            after = await self.capacity(tasks)
            found.append(self.offer(factor, (before + after) / 2, replies, cores))
            before = after
        return found

    async def light(
        self, light: str, heavy: str
    ) -> tuple[list[Reply], list[Reply], float, list[Reply]]:
        alone: list[Reply] = []
        with_flood: list[Reply] = []
        flood: list[Reply] = []
        rate = max(self.setup.factors) * await self.capacity([heavy])
        for turn in range(self.setup.rounds):
            self.say(f"a light task alone and next to a flood, {turn + 1} of {self.setup.rounds}")
            alone += await open_loop(self.client, self.regular(light))
            some, others = await asyncio.gather(
                open_loop(self.client, self.regular(light)),
                open_loop(self.client, self.schedule([heavy], rate)),
            )
            with_flood += some
            flood += others
        return alone, with_flood, rate, flood

    def schedule(self, tasks: Sequence[str], rate: float) -> list[tuple[float, bytes]]:
        """A Poisson process."""
        times = np.cumsum(self.rng.exponential(1 / rate, int(2 * rate * self.setup.seconds)))
        return [
            (float(after_s), self.request(tasks[int(self.rng.integers(len(tasks)))]))
            for after_s in times[times < self.setup.seconds]
        ]

    def regular(self, task: str) -> list[tuple[float, bytes]]:
        """Evenly, so that the light task never waits for itself."""
        count = int(self.setup.light_rate * self.setup.seconds)
        return [(turn / self.setup.light_rate, self.request(task)) for turn in range(1, count)]

    def request(self, task: str) -> bytes:
        body = self.bodies[int(self.rng.integers(len(self.bodies)))]
        return post(task, body, self.setup.deadline_ms)

    def good(self, replies: Sequence[Reply]) -> list[bool]:
        return [r.status == 200 and r.latency_s * 1e3 <= self.setup.deadline_ms for r in replies]

    def offer(
        self, factor: float, capacity: float, replies: Sequence[Reply], cores: float
    ) -> Overload:
        refused = [reply for reply in replies if reply.status in REFUSED]
        in_time = sum(self.good(replies))
        answer_p50, answer_p99 = _percentiles([r for r in replies if r.status == 200])
        refusal_p50, refusal_p99 = _percentiles(refused)
        statuses = sorted({reply.status for reply in replies})
        return Overload(
            factor=factor,
            capacity=capacity,
            offered=len(replies) / self.setup.seconds,
            goodput=in_time / self.setup.seconds,
            accepted=len(replies) - len(refused),
            in_time=in_time,
            statuses={str(s): sum(reply.status == s for reply in replies) for s in statuses},
            answer_p50_ms=answer_p50 or 0.0,
            answer_p99_ms=answer_p99 or 0.0,
            refusal_p50_ms=refusal_p50,
            refusal_p99_ms=refusal_p99,
            without_retry_after=sum(not reply.retry_after for reply in refused),
            client_lag_p99_ms=float(np.percentile([r.lag_s for r in replies], 99)) * 1e3,
            client_cores=cores,
        )

    def line(self, replies: Sequence[Reply]) -> Light:
        p50, p99 = _percentiles([reply for reply in replies if reply.status == 200])
        return Light(len(replies), sum(self.good(replies)), p50 or 0.0, p99 or 0.0)


def _percentiles(replies: Sequence[Reply]) -> tuple[float, float] | tuple[None, None]:
    """p50 and p99 in milliseconds."""
    if not replies:
        return None, None
    p50, p99 = np.percentile([reply.latency_s for reply in replies], [50, 99])
    return float(p50) * 1e3, float(p99) * 1e3


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
