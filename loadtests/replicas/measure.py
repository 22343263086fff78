"""What several gateways on one store cost and give: memory, throughput, the end of one of them.

One gateway with all tasks is compared with several behind HAProxy, in turns. Each has one core;
with more replicas than cores some share one, and all share them with HAProxy and the client. So
speed on machines of their own is simulated, from the rates of one gateway (`simulation`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests import exposition, traffic
from loadtests.client import Client
from loadtests.errors import GatewayError
from loadtests.exposition import Samples
from loadtests.gateways import ROOT, Gateway
from loadtests.replicas import simulation
from loadtests.replicas.proxy import Proxy
from loadtests.systems import System, adapters_and_head, backbone, with_adapters
from loadtests.traffic import Requests, Traffic

LAYERS, IMAGE_SIZE = 4, 32
OWN = 0.03  # of all parameters
CLIENTS = 16
ROUNDS = 3
FIRST = 20  # tasks with which programs are got ready
CONNECTIONS = (1, 2, 4, 8, 16, 32, 64)  # at which one gateway's rate is measured
AT_ONCE = 4  # while tasks are loaded
TRIES, AGAIN_S = 100, 0.1  # of a client that is not answered
LOADED_S = 1.0  # of load before a replica is killed
SETTINGS = {
    "MUNET_TOKENS": str(ROOT / "deploy" / "kubernetes" / "tokens.toml"),  # through a proxy, too
    "MUNET_BACKEND": "openvino",  # in all the same: on a busy machine each might choose another
}


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

    tasks: int
    replicas: int
    seconds: float  # of each round


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes; of the processes of a gateway, what they share counted once (PSS)."""

    empty: int  # a gateway on a store without tasks
    ready: int  # one on the store, with all programs; without the components that it has loaded
    shared: int  # of the components that all tasks share
    own: int  # of the components of all tasks that they do not share
    alone: int  # one gateway with all tasks in memory
    replicas: Sequence[int]
    tasks: Sequence[int]  # that each replica answered

    @property
    def part(self) -> float:
        """What a replica should hold of the components."""
        return self.shared + self.own / len(self.replicas)


@dataclass(slots=True)
class Insisted:
    """What became of requests that are tried until they are answered."""

    asked: int = 0
    failed: int = 0  # at the first try
    tries: int = 1  # of the request that needed the most
    unanswered: int = 0  # by any try
    longest_s: float = 0.0  # of a request with all its tries
    failures: dict[int, int] = field(
        default_factory=dict[int, int]
    )  # of all tries; status 0 is no answer


@dataclass(frozen=True, slots=True)
class Killed:
    """What came of a replica that was killed under load."""

    requests: Insisted
    cold: int  # tasks that the killed replica had answered
    loads: int  # of tasks, by the others
    misses: int  # requests that met a cold task, at the others


@dataclass(frozen=True, slots=True)
class Result:
    """The numbers of one run."""

    memory: Memory
    alone: float  # answers per second of one gateway
    together: float  # of the replicas, through HAProxy
    failed: int
    warm: float  # share of the requests that met a loaded task
    proxy_ms: float  # processor time of HAProxy for a request
    killed: Killed
    rates: Mapping[int, float]  # one gateway's answers per second, by connections
    simulated: Sequence[simulation.Cell]


def measure(setup: Setup, say: Callable[[str], None]) -> Result:
    """Makes a store in a temporary folder, and starts gateways and HAProxy on it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        runs = _Runs(setup, root, say)
        shared, own = runs.publish()
        with contextlib.ExitStack() as stack:
            # Memory is measured side by side, so that each has the same part of common pages.
            empty = stack.enter_context(runs.gateway("empty", 0))
            ready = stack.enter_context(runs.gateway("store", 1, "ready"))
            say("getting programs ready")
            runs.get_ready(ready.port)
            alone = stack.enter_context(runs.gateway("store", 0, "alone"))
            say("loading every task at one gateway")
            runs.load(alone.port)
            rates = runs.curve(alone.port)
            replicas = [
                stack.enter_context(runs.gateway("store", number))
                for number in range(setup.replicas)
            ]
            ports = [replica.port for replica in replicas]
            proxy = stack.enter_context(Proxy(root / "proxy", ports))
            say("loading every task at its replica")
            runs.load(proxy.port)
            answered = [_tasks(replica) for replica in replicas]
            memory = Memory(
                empty.proportional_bytes(),
                ready.proportional_bytes() - shared - FIRST * own,
                shared,
                own * setup.tasks,
                alone.proportional_bytes(),
                [replica.proportional_bytes() for replica in replicas],
                [len(tasks) for tasks in answered],
            )
            empty.kill()
            ready.kill()
            speed = runs.compare(alone, replicas, proxy)
            alone.kill()
            say("killing a replica under load")
            killed = runs.kill(replicas, proxy, answered[0])
        say("simulating")
        simulated = simulation.cells(rates, setup.tasks)
        return Result(memory, *speed, killed, rates, simulated)


@dataclass(frozen=True, slots=True)
class _Runs:
    setup: Setup
    root: Path
    say: Callable[[str], None]

    @property
    def names(self) -> list[str]:
        return [f"task/{number:05}" for number in range(self.setup.tasks)]

    def publish(self) -> tuple[int, int]:
        """Bytes of what all tasks share, and of what each has for itself."""
        arch = with_adapters(backbone("Ti/16", image_size=IMAGE_SIZE, layers=LAYERS), OWN)
        System(str(self.root / "empty"), arch, ())
        system = System(str(self.root / "store"), arch, adapters_and_head(arch))
        for number, task in enumerate(self.names):
            if number % 100 == 0:
                self.say(f"publishing task {number} of {self.setup.tasks}")
            system.publish(task, number + 1)
        sizes = system.store.resolve(self.names[0]).sizes
        own = sum(sizes[name] for name in system.own)
        return sum(sizes.values()) - own, own

    def gateway(self, store: str, number: int, name: str = "replica") -> Gateway:
        """A gateway on one core: the threads that it starts count the cores that it may use."""
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
        try:
            home = self.root / f"home-{name}-{store}-{number}"
            return Gateway(str(self.root / store), home, **SETTINGS)
        finally:
            os.sched_setaffinity(0, cores)

    def get_ready(self, port: int) -> None:
        """Asks for its first tasks in batches of all sizes."""
        first = self.names[:FIRST]
        asyncio.run(_ask_all(port, first))
        for connections in CONNECTIONS:
            tasks = itertools.cycle(first)
            _drive(port, Requests(IMAGE_SIZE), tasks, connections, self.setup.seconds / 3)

    def load(self, port: int) -> None:
        """Asks for every task until it answers: the first ones wait for programs to be compiled.

        Raises GatewayError if one is not answered.
        """
        found = asyncio.run(_ask_all(port, self.names))
        if found.unanswered:
            raise GatewayError(
                f"asking for {found.asked} tasks: expected each to answer, found that "
                f"{found.unanswered} did not: {found.failures}"
            )

    def curve(self, port: int) -> dict[int, float]:
        """Answers per second of one gateway, by how many requests are always under way."""
        rates: dict[int, list[float]] = {connections: [] for connections in CONNECTIONS}
        for turn, connections in itertools.product(range(ROUNDS), CONNECTIONS):
            self.say(f"one gateway, {connections} connections, round {turn + 1} of {ROUNDS}")
            tasks = self._drawn(turn)
            found = _drive(port, Requests(IMAGE_SIZE), tasks, connections, self.setup.seconds)
            rates[connections].append(found.rate)
        return {connections: statistics.median(found) for connections, found in rates.items()}

    def compare(
        self, alone: Gateway, replicas: Sequence[Gateway], proxy: Proxy
    ) -> tuple[float, float, int, float, float]:
        """Rate of one, rate of all, requests that failed, share that was warm, proxy's ms each."""
        requests, rates = Requests(IMAGE_SIZE), {alone.port: [0.0] * 0, proxy.port: [0.0] * 0}
        misses = answered = failed = 0
        proxy_s = 0.0
        for turn, port in itertools.product(range(ROUNDS), rates):
            self.say(f"throughput, round {turn + 1} of {ROUNDS}")
            before, used = [_samples(one) for one in replicas], proxy.cpu_s()
            found = _drive(port, requests, self._drawn(turn), CLIENTS, self.setup.seconds)
            rates[port].append(found.rate)
            failed += found.failed
            if port == proxy.port:
                after = [_samples(one) for one in replicas]
                misses += _increase(before, after, "munet_cache_misses_total")
                answered += found.statuses.total()
                proxy_s += proxy.cpu_s() - used
        one, all_of_them = (statistics.median(found) for found in rates.values())
        return one, all_of_them, failed, 1 - misses / answered, 1e3 * proxy_s / answered

    def kill(self, replicas: Sequence[Gateway], proxy: Proxy, tasks: frozenset[str]) -> Killed:
        """Kills the first replica, which answered these tasks, while clients ask for all tasks."""
        others = replicas[1:]
        before = [_samples(one) for one in others]
        requests = asyncio.run(_ask_while(replicas[0].kill, proxy.port, self.names))
        after = [_samples(one) for one in others]
        loads = _increase(before, after, "munet_task_loads_total")
        misses = _increase(before, after, "munet_cache_misses_total")
        return Killed(requests, len(tasks), loads, misses)

    def _drawn(self, seed: int) -> Iterator[str]:
        drawn = random.Random(seed)
        return (drawn.choice(self.names) for _ in itertools.count())


async def _ask_all(port: int, names: Sequence[str]) -> Insisted:
    found, client, requests = Insisted(), Client(port), Requests(IMAGE_SIZE)
    left = iter(names)

    async def one() -> None:
        for task in left:
            await _insist(client, requests.to(task), found)

    try:
        await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    finally:
        client.close()
    return found


async def _ask_while(kill: Callable[[], None], port: int, names: Sequence[str]) -> Insisted:
    """Asks for tasks at random until the kill is done, and then once for each."""
    found, client, requests = Insisted(), Client(port), Requests(IMAGE_SIZE)
    drawn, over = random.Random(0), asyncio.Event()
    left = iter(drawn.sample(names, len(names)))

    async def one() -> None:
        while not over.is_set():
            await _insist(client, requests.to(drawn.choice(names)), found)
        for task in left:
            await _insist(client, requests.to(task), found)

    async def end() -> None:
        await asyncio.sleep(LOADED_S)
        await asyncio.to_thread(kill)
        over.set()

    try:
        await asyncio.gather(end(), *(one() for _ in range(CLIENTS)))
    finally:
        client.close()
    return found


async def _insist(client: Client, request: bytes, found: Insisted) -> None:
    start = time.perf_counter()
    found.asked += 1
    for tries in range(1, TRIES + 1):
        try:
            status = (await client.ask(request, time.perf_counter())).status
        except OSError:  # no connection
            status = 0
        found.tries = max(found.tries, tries)
        found.longest_s = max(found.longest_s, time.perf_counter() - start)
        if status == 200:
            return
        found.failed += tries == 1
        found.failures[status] = found.failures.get(status, 0) + 1
        await asyncio.sleep(AGAIN_S)
    found.unanswered += 1


def _drive(
    port: int, requests: Requests, tasks: Iterator[str], clients: int, seconds: float
) -> Traffic:
    async def run() -> Traffic:
        client = Client(port)
        try:
            return await traffic.loop(client, requests, tasks, clients, seconds)
        finally:
            client.close()

    return asyncio.run(run())


def _samples(gateway: Gateway) -> Samples:
    with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=traffic.WAIT_S) as response:
        return exposition.parse(response.read().decode())


def _tasks(gateway: Gateway) -> frozenset[str]:
    """Those that it has answered."""
    found = (dict(one.labels) for one in _samples(gateway) if one.name == "munet_requests_total")
    return frozenset(labels["task"] for labels in found if labels["status"] == "200")


def _increase(before: Sequence[Samples], after: Sequence[Samples], name: str) -> int:
    pairs = zip(before, after, strict=True)
    return int(sum(exposition.counter_increase(*pair, name) or 0 for pair in pairs))
