"""What a memory budget smaller than the tasks costs: throughput over popularity and budget.

Each cell is compared with what its own misses cost: the time of a request that finds its task in
memory, plus the share of misses times the time that a miss takes longer, both measured alone.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from loadtests import exposition, traffic
from loadtests.gateways import Gateway
from loadtests.systems import System, adapters_and_head, backbone, with_adapters
from loadtests.traffic import Requests
from loadtests.workload import Popularity, probabilities

CLIENTS = 16
OWN = 0.03  # of all parameters
FOR_MISSES = 3  # tasks that fit while the cost of a miss is measured


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

    tasks: int
    size: str  # such as Ti/16
    image_size: int
    seconds: float  # of each cell
    exponents: tuple[float, ...] = (0.6, 1.0, 1.4)
    budgets: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)  # share of the tasks that fit


@dataclass(frozen=True, slots=True)
class Cell:
    """One popularity and one budget."""

    exponent: float
    budget: float
    rate: float  # answers with status 200 per second
    failed: int
    miss_share: float  # of the requests
    p50_ms: float
    p99_ms: float
    relative: float  # rate to that of the whole budget at this popularity
    predicted: float  # the same, from the misses and their cost


@dataclass(frozen=True, slots=True)
class Result:
    """All cells, and what they are compared with."""

    shared_bytes: int
    own_bytes: int  # of one task
    warm_ms: float  # one request at a time
    miss_ms: float  # how much longer one takes that finds its task gone
    cells: list[Cell]


def measure(setup: Setup, say: Callable[[str], None]) -> Result:
    """Makes a store in a temporary folder, and starts one gateway for each budget."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        say(f"publishing {setup.tasks} tasks")
        arch = with_adapters(backbone(setup.size, image_size=setup.image_size), OWN)
        system = System(str(root / "store"), arch, adapters_and_head(arch))
        tasks = [f"task/{number:05}" for number in range(setup.tasks)]
        for number, task in enumerate(tasks):
            system.publish(task, number + 1)
        sizes = system.store.resolve(tasks[0]).sizes
        own = sum(sizes[name] for name in system.own)
        shared = sum(sizes.values()) - own
        runs = _Runs(setup, str(root / "store"), root, tasks, shared, own)
        say("the cost of a miss")
        warm_s, miss_s = runs.miss()
        cells: list[Cell] = []
        for budget in setup.budgets:
            say(f"budget {budget:.0%}")
            cells += runs.budget(budget, miss_s, cells)
        return Result(shared, own, warm_s * 1e3, miss_s * 1e3, cells)


@dataclass(frozen=True, slots=True)
class _Runs:
    setup: Setup
    store: str
    root: Path
    tasks: list[str]
    shared: int
    own: int

    def _gateway(self, fits: float) -> Gateway:
        budget = str(int(self.shared + (fits + 0.5) * self.own))
        return Gateway(self.store, self.root / "home", MUNET_MEMORY_BUDGET=budget)

    def miss(self) -> tuple[float, float]:
        """Seconds of a request, and how much longer one takes whose task has to be read."""
        requests = Requests(self.setup.image_size)
        rounds = range(min(100, len(self.tasks)) // (FOR_MISSES + 1))
        with self._gateway(FOR_MISSES) as gateway:
            traffic.warm_up(gateway, requests, self.tasks[0])
            warm: list[float] = []
            cold: list[float] = []
            for turn in rounds:  # interleaved, as the machine is shared
                some = self.tasks[1 + turn * FOR_MISSES : 1 + (turn + 1) * FOR_MISSES]
                cold += traffic.touch(gateway, requests, some)
                warm += traffic.touch(gateway, requests, some)
        warm_s = statistics.median(warm)
        return warm_s, statistics.median(cold) - warm_s

    def budget(self, budget: float, miss_s: float, before: list[Cell]) -> list[Cell]:
        """The cells of one budget; `before` holds those of the whole budget, if this is none."""
        with self._gateway(budget * len(self.tasks)) as gateway:
            traffic.warm_up(gateway, Requests(self.setup.image_size), self.tasks[0])
            return [self._cell(gateway, budget, s, miss_s, before) for s in self.setup.exponents]

    def _cell(
        self, gateway: Gateway, budget: float, exponent: float, miss_s: float, before: list[Cell]
    ) -> Cell:
        requests = Requests(self.setup.image_size)
        drawn = self._drawn(exponent)
        # Fills the budget as this popularity does.
        warm_up = list(reversed(self.tasks)) if budget == 1.0 else [next(drawn) for _ in range(500)]
        traffic.drive(gateway, requests, warm_up, CLIENTS, 60.0)
        start = traffic.samples(gateway)
        found = traffic.drive(gateway, requests, drawn, CLIENTS, self.setup.seconds)
        end = traffic.samples(gateway)
        misses = exposition.counter_increase(start, end, "munet_cache_misses_total") or 0.0
        share = misses / found.statuses.total()
        whole = next((c.rate for c in before if (c.exponent, c.budget) == (exponent, 1.0)), None)
        full = found.rate if whole is None else whole
        return Cell(
            exponent=exponent,
            budget=budget,
            rate=found.rate,
            failed=found.failed,
            miss_share=share,
            p50_ms=found.quantile_s(0.5) * 1e3,
            p99_ms=found.quantile_s(0.99) * 1e3,
            relative=found.rate / full,
            predicted=1 / (1 + share * miss_s * full),
        )

    def _drawn(self, exponent: float) -> Iterator[str]:
        rng = np.random.default_rng(int(exponent * 10))
        shares = probabilities(Popularity("zipf", exponent), len(self.tasks))
        while True:
            yield from (self.tasks[rank] for rank in rng.choice(len(shares), 1000, p=shares))


def render(result: Result) -> Table:
    """The cells as a table."""
    table = Table(
        *("zipf", "budget", "per s", "failed", "misses", "p50 ms", "p99 ms"),
        *("relative", "predicted"),
        title=f"A miss takes {result.miss_ms:.1f} ms beyond {result.warm_ms:.1f} ms, "
        f"for {result.own_bytes:,} own bytes",
    )
    for cell in sorted(result.cells, key=lambda cell: (cell.exponent, -cell.budget)):
        table.add_row(
            *(f"{cell.exponent:g}", f"{cell.budget:.0%}", f"{cell.rate:.0f}", str(cell.failed)),
            *(f"{cell.miss_share:.1%}", f"{cell.p50_ms:.1f}", f"{cell.p99_ms:.1f}"),
            *(f"{cell.relative:.2f}", f"{cell.predicted:.2f}"),
            end_section=cell.budget == min(c.budget for c in result.cells),
        )
    return table


def json_line(setup: Setup, result: Result) -> str:
    """The run as one line of JSON."""
    return traffic.json_line(asdict(setup), asdict(result))
