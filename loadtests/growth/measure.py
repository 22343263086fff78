"""Gateways on stores of more and more tasks, all up at once and asked in turns.

The tasks of a store share one backbone (Ti/16, 64 px, 12 blocks); each has an adapter before the
last block and a head of its own, 57 KB, so that ten thousand fit into any machine's memory.
Components in a batch are varied by asking for few or many tasks with 16 requests under way.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from loadtests import traffic
from loadtests.errors import GatewayError, OptionError
from loadtests.gateways import Gateway
from loadtests.systems import System, adapters_and_head, backbone
from loadtests.traffic import Requests
from vit import Architecture

SIZE, PIXELS = "Ti/16", 64
TASKS = (10, 100, 1_000, 10_000)
STARTS = 3
CLIENTS = 16
ASKED = tuple(2**power for power in range(5))  # distinct tasks of 16 requests
SHARING, APART = "all but an adapter and a head", "nothing"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured. Raises OptionError."""

    tasks: Sequence[int] = TASKS
    rounds: int = 3
    seconds: float = 5.0  # of each gateway, load and round

    def __post_init__(self) -> None:
        """Counts go up, and each is of a store."""
        if not self.tasks or list(self.tasks) != sorted({*self.tasks}) or self.tasks[0] < 2:
            raise OptionError(
                "checking tasks: expected numbers from 2 upwards, each above the one before, "
                f"found {', '.join(map(str, self.tasks))}"
            )
        if self.rounds < 1:
            raise OptionError(f"checking rounds: expected 1 or more, found {self.rounds}")


@dataclass(slots=True)
class Size:
    """A gateway with this number of tasks: each list has one figure a start or a round."""

    tasks: int
    unique_mb: float = 0.0  # of all components, each once
    empty_mb: float = 0.0  # of all its processes, before the first task is asked for
    loaded_mb: float = 0.0  # with every task in memory
    cold_p50_ms: float = 0.0  # a task's first answer, one at a time
    cold_p99_ms: float = 0.0
    start_s: list[float] = field(default_factory=list)  # until it is ready
    p50_ms: list[float] = field(default_factory=list)  # one connection, every task as often
    p99_ms: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)  # answers per second, 16 connections


@dataclass(frozen=True, slots=True)
class Mix:
    """Sixteen requests under way for this number of distinct tasks."""

    shared: str  # between the tasks
    tasks: int
    components: int  # distinct ones of these tasks
    ms: list[float]  # that sixteen answers took, one figure a round


@dataclass(slots=True)
class Result:
    """All of it."""

    setup: Setup
    sizes: list[Size]
    mixes: list[Mix]


def measure(setup: Setup, say: Say) -> Result:
    """Publishes the stores in a temporary folder and measures. Raises LoadTestError."""
    with tempfile.TemporaryDirectory(prefix="munet-growth-") as folder:
        run = _Run(setup, Path(folder), say)
        sizes = run.sizes()
        return Result(setup, sizes, run.mixes())


@dataclass(frozen=True, slots=True)
class _Run:
    setup: Setup
    folder: Path
    say: Say

    def gateway(self, store: Path) -> Gateway:
        """Keeps its programs where all gateways of this run do."""
        programs = str(self.folder / "programs")
        return Gateway(
            str(store), self.folder / "homes" / store.name, MUNET_COMPILATION_CACHE=programs
        )

    def publish(self, name: str, arch: Architecture, own: Sequence[str], count: int) -> System:
        self.say(f"publishing {count} tasks that share {name}")
        system = System(str(self.folder / f"store-{count}-{len(own)}"), arch, own)
        for seed, task in enumerate(_names(count), 1):
            system.publish(task, seed)
        return system

    # -- more tasks

    def sizes(self) -> list[Size]:
        """One gateway for each number of tasks; their rounds alternate."""
        arch = _adapted()
        stores = [
            Path(self.publish(SHARING, arch, adapters_and_head(arch), count).store.url)
            for count in self.setup.tasks
        ]
        found = [Size(count) for count in self.setup.tasks]
        self.say("making programs")
        with self.gateway(stores[0]) as gateway:
            traffic.warm_up(gateway, Requests(PIXELS), _names(1)[0])
        for turn, (size, store) in itertools.product(
            range(STARTS), zip(found, stores, strict=True)
        ):
            self.say(f"start {turn + 1} of {STARTS} with {size.tasks} tasks")
            with self.gateway(store) as gateway:
                size.start_s.append(gateway.ready_s)
                if turn == STARTS - 1:
                    self.say(f"first answers of {size.tasks} tasks")
                    _load(gateway, size)
        with ExitStack() as stack:
            up = [stack.enter_context(self.gateway(store)) for store in stores]
            for size, gateway in zip(found, up, strict=True):
                self.say(f"loading {size.tasks} tasks")
                traffic.touch(gateway, Requests(PIXELS), _names(size.tasks))
            for turn, (size, gateway) in itertools.product(
                range(self.setup.rounds), list(zip(found, up, strict=True))
            ):
                self.say(f"round {turn + 1} of {self.setup.rounds}, {size.tasks} tasks")
                self.ask(gateway, size)
        return found

    def ask(self, gateway: Gateway, size: Size) -> None:
        """One round: one connection, and sixteen."""
        names = _names(size.tasks)
        alone = self.drive(gateway, names, 1)
        size.p50_ms.append(alone.quantile_s(0.5) * 1e3)
        size.p99_ms.append(alone.quantile_s(0.99) * 1e3)
        size.rate.append(self.drive(gateway, names, CLIENTS).rate)

    def drive(self, gateway: Gateway, names: Sequence[str], clients: int) -> traffic.Traffic:
        """Raises GatewayError where a request fails."""
        order = _shuffled(names)
        found = traffic.drive(gateway, Requests(PIXELS), order, clients, self.setup.seconds)
        if found.failed:
            raise GatewayError(
                f"asking for {len(names)} tasks: expected every request to be answered, "
                f"found {dict(found.statuses)}"
            )
        return found

    # -- more components

    def mixes(self) -> list[Mix]:
        """Tasks that share nearly all, and tasks that share nothing."""
        adapted, plain = _adapted(), backbone(SIZE, image_size=PIXELS)
        count = max(ASKED)
        systems = {
            SHARING: self.publish(SHARING, adapted, adapters_and_head(adapted), count),
            APART: self.publish(APART, plain, plain.component_names, count),
        }
        found: list[Mix] = []
        with ExitStack() as stack:
            up = {
                shared: stack.enter_context(self.gateway(Path(system.store.url)))
                for shared, system in systems.items()
            }
            for shared, system in systems.items():
                traffic.warm_up(up[shared], Requests(PIXELS), _names(1)[0])
                traffic.touch(up[shared], Requests(PIXELS), _names(count))
                rest = len(system.arch.component_names) - len(system.own)
                for tasks in ASKED:
                    found.append(Mix(shared, tasks, rest + tasks * len(system.own), []))
            for turn, mix in itertools.product(range(self.setup.rounds), found):
                self.say(f"round {turn + 1} of {self.setup.rounds}, {mix.components} components")
                seen = self.drive(up[mix.shared], _names(mix.tasks), CLIENTS)
                mix.ms.append(CLIENTS * 1e3 / seen.rate)
        return found


def _adapted() -> Architecture:
    arch = backbone(SIZE, image_size=PIXELS)
    return replace(arch, adapters=(arch.num_layers - 1,))


def _load(gateway: Gateway, size: Size) -> None:
    """Every task once, while no other gateway is up to share its memory with."""
    size.empty_mb = gateway.proportional_bytes() / 1e6
    first, *others = _names(size.tasks)
    traffic.warm_up(gateway, Requests(PIXELS), first)
    cold_s = traffic.touch(gateway, Requests(PIXELS), others)
    size.cold_p50_ms, size.cold_p99_ms = (np.percentile(cold_s, [50, 99]) * 1e3).tolist()
    size.loaded_mb = gateway.proportional_bytes() / 1e6
    size.unique_mb = traffic.value(traffic.samples(gateway), "munet_resident_bytes") / 1e6


def _names(count: int) -> Sequence[str]:
    return [f"task/{number:05}" for number in range(count)]


def _shuffled(names: Sequence[str]) -> Iterator[str]:
    """All of them, again and again, in an order that no cache can foresee."""
    order: list[int] = np.random.default_rng(0).permutation(len(names)).tolist()
    return (names[at] for at in itertools.cycle(order))


def middle(found: Sequence[float]) -> float:
    """Their median."""
    return statistics.median(found)
