"""What a task costs a gateway besides its bytes: memory, start, first answer, throughput.

A large store of tasks that adapt one backbone is compared with one of ten such tasks, and a larger
one still of tasks with heads alone, on running gateways whose turns alternate.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from loadtests import traffic
from loadtests.gateways import Gateway
from loadtests.systems import System, adapters_and_head, backbone, with_adapters
from loadtests.traffic import Requests

OWN = 0.03  # of all parameters
FEW = 10  # tasks; also distinct ones in each block of as many requests
CLIENTS = 16
STARTS = 3
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

    tasks: int
    size: str  # such as Ti/16
    image_size: int
    catalog: int  # tasks of the largest store, of which hardly any are loaded
    seconds: float  # of each round


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes."""

    unique: int  # of all components, each once
    empty: int  # resident in a gateway whose store is empty
    loaded: int  # resident with every task in memory

    @property
    def grown(self) -> float:
        """What loading takes, to what is loaded."""
        return (self.loaded - self.empty) / self.unique

    @property
    def in_all(self) -> float:
        """What the whole gateway takes, to what is loaded."""
        return self.loaded / self.unique


@dataclass(frozen=True, slots=True)
class Result:
    """The numbers of one run."""

    ready_s: dict[int, float]  # by tasks in the store, median
    memory: Memory
    warm_ms: float  # one request at a time
    cold_p50_ms: float  # the first request for a task
    cold_p99_ms: float
    rates: tuple[float, float]  # answers/s of FEW tasks, and of all, FEW distinct in each block
    few_ms: tuple[float, float]  # p50 and p99 of a request with FEW tasks in the catalog
    catalog_ms: tuple[float, float]  # with `catalog` tasks in it

    @property
    def rate_ratio(self) -> float:
        """Throughput with all tasks, to that with FEW."""
        return self.rates[1] / self.rates[0]


def measure(setup: Setup, say: Callable[[str], None]) -> Result:
    """Makes stores in a temporary folder, and starts gateways on them."""
    with tempfile.TemporaryDirectory() as folder:
        runs = _Runs(setup, Path(folder), say)
        few, many, most = runs.publish()
        ready_s = runs.starts(few, many, most)
        with Gateway(runs.store("empty", 0, "none"), runs.home("empty")) as gateway:
            empty = gateway.resident_bytes()
        with Gateway(many, runs.home("many")) as gateway:
            say("loading every task")
            warm_s, cold_s = runs.load_all(gateway)
            unique = int(traffic.value(traffic.samples(gateway), "munet_resident_bytes"))
            memory = Memory(unique, empty, gateway.resident_bytes())
            say("throughput")
            rates = runs.rates(gateway)
        say("latency next to a large catalog")
        latencies = runs.latencies(few, most)
    quantiles = statistics.quantiles(cold_s, n=100)
    return Result(
        ready_s=ready_s,
        memory=memory,
        warm_ms=warm_s * 1e3,
        cold_p50_ms=quantiles[49] * 1e3,
        cold_p99_ms=quantiles[98] * 1e3,
        rates=rates,
        few_ms=latencies[0],
        catalog_ms=latencies[1],
    )


@dataclass(frozen=True, slots=True)
class _Runs:
    setup: Setup
    root: Path
    say: Callable[[str], None]

    def home(self, name: str) -> Path:
        return self.root / f"home-{name}"

    def store(self, name: str, tasks: int, own: str) -> str:
        """A store whose tasks have `adapters` and heads for themselves, or a `head` alone."""
        self.say(f"publishing {tasks} tasks")
        arch = with_adapters(backbone(self.setup.size, image_size=self.setup.image_size), OWN)
        parts = {"adapters": adapters_and_head(arch), "head": ("head",), "none": ()}[own]
        system = System(str(self.root / name), arch, parts)
        for number, task in enumerate(_names(tasks)):
            system.publish(task, number + 1)
        return str(self.root / name)

    def publish(self) -> tuple[str, str, str]:
        return (
            self.store("few", FEW, "adapters"),
            self.store("many", self.setup.tasks, "adapters"),
            self.store("most", self.setup.catalog, "head"),
        )

    def starts(self, *stores: str) -> dict[int, float]:
        """Seconds from start to ready, by number of tasks."""
        counts = (FEW, self.setup.tasks, self.setup.catalog)
        found: dict[int, list[float]] = {count: [] for count in counts}
        for turn, (count, store) in itertools.product(
            range(STARTS), zip(counts, stores, strict=True)
        ):
            self.say(f"start {turn + 1} with {count} tasks")
            with Gateway(store, self.home("start")) as gateway:
                found[count].append(gateway.ready_s)
        return {count: statistics.median(seconds) for count, seconds in found.items()}

    def load_all(self, gateway: Gateway) -> tuple[float, list[float]]:
        """Seconds of a request for a loaded task, and of the first one for each task."""
        requests, names = Requests(self.setup.image_size), _names(self.setup.tasks)
        traffic.warm_up(gateway, requests, names[0])
        cold_s = traffic.touch(gateway, requests, names[1:])
        return statistics.median(traffic.touch(gateway, requests, names[:100])), cold_s

    def rates(self, gateway: Gateway) -> tuple[float, float]:
        """Answers per second, of FEW tasks and of all."""
        requests, names = Requests(self.setup.image_size), _names(self.setup.tasks)
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for tasks, rates in zip((names[:FEW], names), found, strict=True):
                done = traffic.drive(
                    gateway, requests, itertools.cycle(tasks), CLIENTS, self.setup.seconds
                )
                rates.append(done.rate)
        return statistics.median(found[0]), statistics.median(found[1])

    def latencies(self, few: str, most: str) -> tuple[tuple[float, float], tuple[float, float]]:
        """p50 and p99 in milliseconds of one request at a time, next to a small and a large
        catalog; of the same number of loaded tasks.
        """
        requests, names = Requests(self.setup.image_size), _names(FEW)
        found: tuple[list[float], list[float]] = ([], [])
        with Gateway(few, self.home("few")) as one, Gateway(most, self.home("most")) as other:
            for gateway in (one, other):
                traffic.warm_up(gateway, requests, names[0])
                traffic.touch(gateway, requests, names)
            for _ in range(ROUNDS):
                for gateway, latencies_s in zip((one, other), found, strict=True):
                    done = traffic.drive(
                        gateway, requests, itertools.cycle(names), 1, self.setup.seconds
                    )
                    latencies_s += done.latencies_s
        return _quantiles_ms(found[0]), _quantiles_ms(found[1])


def _names(count: int) -> Sequence[str]:
    return [f"task/{number:05}" for number in range(count)]


def _quantiles_ms(seconds: list[float]) -> tuple[float, float]:
    quantiles = statistics.quantiles(seconds, n=100)
    return quantiles[49] * 1e3, quantiles[98] * 1e3


def render(setup: Setup, result: Result) -> Table:
    """The numbers as a table."""
    table = Table("", "", title=f"{setup.tasks} tasks on one {setup.size}", show_header=False)
    for row in _rows(setup, result):
        table.add_row(*row)
    return table


def _rows(setup: Setup, result: Result) -> Iterator[tuple[str, str]]:
    memory = result.memory
    yield "unique bytes", f"{memory.unique / 1e6:.0f} MB"
    yield "memory, all tasks loaded", f"{memory.loaded / 1e6:.0f} MB"
    yield "memory, empty store", f"{memory.empty / 1e6:.0f} MB"
    yield "growth to unique bytes", f"{memory.grown:.3f}"
    yield "memory to unique bytes", f"{memory.in_all:.3f}"
    for count, seconds in result.ready_s.items():
        yield f"start to ready, {count} tasks", f"{seconds:.2f} s"
    yield "warm answer, p50", f"{result.warm_ms:.1f} ms"
    yield "first answer of a task, p50", f"{result.cold_p50_ms:.1f} ms"
    yield "first answer of a task, p99", f"{result.cold_p99_ms:.1f} ms"
    few, many = result.rates
    yield f"throughput, {FEW} tasks", f"{few:.0f}/s"
    yield f"throughput, {setup.tasks} tasks, {FEW} in each {FEW} requests", f"{many:.0f}/s"
    yield "ratio", f"{result.rate_ratio:.2f}"
    for count, (p50, p99) in ((FEW, result.few_ms), (setup.catalog, result.catalog_ms)):
        yield f"request, {count} tasks in the catalog, p50 and p99", f"{p50:.1f}, {p99:.1f} ms"


def json_line(setup: Setup, result: Result) -> str:
    """The run as one line of JSON."""
    memory = {"grown": result.memory.grown, "in_all": result.memory.in_all}
    return traffic.json_line(asdict(setup), {**asdict(result), **memory})
