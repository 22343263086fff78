"""Runs the cells: in each round every server takes its turn, in another order each time.

Start, first answers and memory are those of a server that runs alone; for the other cells all
servers are up, every task is warm, and one server at a time is asked.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loadtests.errors import GatewayError
from loadtests.gateways import busy_s
from loadtests.peers.answers import figures, most_asked
from loadtests.peers.asking import WARM_UP_S, Asker
from loadtests.peers.client import Answer
from loadtests.peers.networks import Maker, Networks
from loadtests.peers.plan import CELLS, EMPTY, OURS, PEERS, SETS, Form, Setup, TaskSet
from loadtests.peers.servers import kind_of, missing

OPEN = 0.6  # of the capacity of the gateway or of bare, whichever is less
SPARE = 0.9  # of its own capacity: a server that has less is not asked at that rate
WARM_ASKED = 100  # requests, one at a time, for warm tasks
IDLE = 0.05  # of a core: who uses more while no server is asked is named
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Round:
    """One server in one round of one cell."""

    cell: str
    server: str
    figures: dict[str, float]
    failed: int  # requests that were not answered with 200
    wrong: int  # answers that are not the network's


@dataclass(slots=True)
class Result:
    """All rounds, and what they were measured on."""

    setup: Setup
    notes: list[str]
    rounds: list[Round] = field(default_factory=list)
    unique_bytes: dict[str, int] = field(default_factory=dict)  # of components, by set of tasks

    def of(self, cell: str, server: str) -> list[Round]:
        """One server's rounds of a cell."""
        return [r for r in self.rounds if (r.cell, r.server) == (cell, server)]

    def failed(self, cell: str, server: str) -> tuple[int, int]:
        """Its failed requests and its wrong answers; one of either fails the cell."""
        rounds = self.of(cell, server)
        return sum(r.failed for r in rounds), sum(r.wrong for r in rounds)


def measure(setup: Setup, say: Say) -> Result:
    """Everything, one set of tasks after the other. Raises LoadTestError."""
    result = Result(setup, [why for name in setup.peers if (why := missing(name))])
    maker = Maker()
    try:
        for tasks in SETS.values():
            cells = [name for name in setup.cells if CELLS[name].tasks == tasks.name]
            with tempfile.TemporaryDirectory(prefix="munet-peers-") as folder:
                if cells:
                    _SetRun(result, tasks, cells, maker, Path(folder), say).all()
    finally:
        maker.close()
    return result


class _SetRun:
    """The cells of one set of tasks."""

    def __init__(
        self,
        result: Result,
        tasks: TaskSet,
        cells: Sequence[str],
        maker: Maker,
        folder: Path,
        say: Say,
    ) -> None:
        self.result, self.setup, self.tasks = result, result.setup, tasks
        self.cells, self.maker, self.folder, self.say = cells, maker, folder, say
        self.capacity: dict[str, float] = {}
        self.networks = self.make()

    def make(self) -> Networks:
        """The tasks."""
        self.say(f"making the {self.tasks.name} tasks")
        forms: set[Form] = {CELLS[cell].form for cell in self.cells}
        names = {name for cell in self.cells for name in self.order(cell, 0)} & {*PEERS}
        count = self.tasks.tasks(self.setup.tasks)
        made = self.maker.make(
            self.folder,
            self.tasks,
            count,
            self.setup.rounds,
            forms=forms,
            models={kind_of(name, self.folder, 0).models for name in names},
        )
        self.result.unique_bytes[self.tasks.name] = made.unique_bytes
        return made

    def all(self) -> None:
        """Every round of every cell."""
        alone = [name for name in self.cells if CELLS[name].kind == "alone"]
        for cell, turn in itertools.product(alone, range(self.setup.rounds)):
            for name in self.order(cell, turn):
                self.say(f"{cell}, round {turn + 1} of {self.setup.rounds}, {name}")
                with self.failing(cell, name=name):
                    self.alone(cell, name)
        if cells := [name for name in self.cells if name not in alone]:
            with ExitStack() as stack:
                self.alongside(cells, self.start_all(cells, stack))

    def order(self, cell: str, turn: int) -> list[str]:
        """Who takes part in a cell and is installed, beginning with another one each round."""
        names = [name for name in self.setup.servers(cell) if not missing(name)]
        at = turn % len(names)
        return names[at:] + names[:at]

    def start(self, name: str) -> Asker:
        home = self.folder / "homes" / name.replace("/", "_")
        return Asker(name, kind_of(name, self.folder, self.tasks.pixels), home, self.networks)

    def alone(self, cell: str, name: str) -> None:
        """From a start to the memory that it takes with all tasks warm."""
        began = time.perf_counter()
        asker = self.start(name)
        with asker.server:
            first, *others = self.networks.tasks
            answers = asker.once([first])
            found = {"first_ms": (time.perf_counter() - began) * 1e3}
            if name != EMPTY:
                cold = asker.once(others)
                answers += cold + asker.warm_up().all
                warm = asker.once(self.networks.tasks[:WARM_ASKED])
                answers += warm
                for what, seen in (("cold", cold), ("warm", warm)):
                    p50, p99 = np.percentile([a.latency_s for a in seen], [50, 99]).tolist()
                    found |= {f"{what}_p50_ms": p50 * 1e3, f"{what}_p99_ms": p99 * 1e3}
            found["pss_mb"] = asker.server.proportional_bytes() / 1e6
        self.add(cell, asker, found, answers)

    def start_all(self, cells: Sequence[str], stack: ExitStack) -> dict[str, Asker]:
        """Everybody who takes part in one of these cells, with every task warm."""
        names = dict.fromkeys(name for cell in cells for name in self.order(cell, 0))
        found: dict[str, Asker] = {}
        for name in names:
            self.say(f"starting {name}")
            with self.failing(*(cell for cell in cells if name in self.order(cell, 0)), name=name):
                asker = self.start(name)
                stack.enter_context(asker.server)
                self.warm(asker)
                found[name] = asker
        self.note_idle(found)
        return found

    def warm(self, asker: Asker) -> None:
        """Every task is loaded, and the capacity known. Raises GatewayError for other answers."""
        answers = asker.once(self.networks.tasks)
        failed, wrong = asker.failures(answers, "png")
        if failed or wrong:
            raise GatewayError(
                f"asking for every task: expected {len(answers)} answers of the network, found "
                f"{failed} failures and {wrong} other answers; the log ends "
                f"{asker.server.log.read_text(errors='replace')[-1000:]!r}"
            )
        asker.warm_up()
        self.capacity[asker.name] = figures(asker.warm_up()).get("rate", 0.0)

    @contextmanager
    def failing(self, *cells: str, name: str) -> Iterator[None]:
        """A server that does not start or answer fails these cells, and no other server."""
        try:
            yield
        except GatewayError as error:
            self.result.notes.append(f"{name}: {error}")
            self.result.rounds += [Round(cell, name, {}, 1, 0) for cell in cells]

    def note_idle(self, askers: dict[str, Asker]) -> None:
        """Names what computes while no server is asked: servers, or something else."""
        others, before = busy_s(), {name: one.server.cpu_s() for name, one in askers.items()}
        time.sleep(WARM_UP_S)
        used = {name: one.server.cpu_s() - before[name] for name, one in askers.items()}
        used["the rest of the machine"] = busy_s() - others - sum(used.values())
        for name, seconds in used.items():
            if seconds > IDLE * WARM_UP_S:
                share = f"{seconds / WARM_UP_S:.0%} of a core"
                self.result.notes.append(f"{name} used {share} while no server was asked")

    def alongside(self, cells: Sequence[str], askers: dict[str, Asker]) -> None:
        """Every round of every cell, one server at a time."""
        for turn, cell in itertools.product(range(self.setup.rounds), cells):
            for name in (name for name in self.order(cell, turn) if name in askers):
                self.say(f"{cell}, round {turn + 1} of {self.setup.rounds}, {name}")
                run = self.added if CELLS[cell].kind == "added" else self.loaded
                with self.failing(cell, name=name):
                    run(cell, askers[name], turn)

    def loaded(self, cell: str, asker: Asker, turn: int) -> None:
        """A closed or an open loop."""
        what, seconds = CELLS[cell], self.setup.seconds
        used_s = asker.server.cpu_s()
        if what.kind == "closed":
            answers = asker.closed(what, turn, seconds)
        else:
            known = [self.capacity[n] for n in (OURS, "bare") if n in self.capacity]
            rate = OPEN * min(known or self.capacity.values())
            if rate > SPARE * self.capacity[asker.name]:
                self.result.notes.append(f"{asker.name} was not asked {rate:.0f} times a second")
                return
            answers = asker.open(what, turn, seconds, rate)
        used_s = asker.server.cpu_s() - used_s
        found = figures(answers)
        found["cpu_ms"] = used_s * 1e3 / len(answers.all)
        if what.exponent and (ratio := most_asked(answers)) is not None:
            found["most_asked"] = ratio
        self.add(cell, asker, found, answers.all)

    def added(self, cell: str, asker: Asker, turn: int) -> None:
        """One task comes in while others are asked for."""
        task = f"added/{asker.name.replace('/', '_').replace('@', '_')}-{turn}"

        def add() -> None:
            if asker.kind.models == "store":
                self.maker.publish(self.networks, self.tasks, turn, task)
            else:
                self.maker.copy(self.networks, asker.kind.models, turn, task)

        answers, found = asker.alongside(CELLS[cell], turn, task, self.networks.spare[turn], add)
        self.add(cell, asker, dict(found), answers)

    def add(self, cell: str, asker: Asker, found: dict[str, float], answers: list[Answer]) -> None:
        failed, wrong = (0, 0) if asker.name == EMPTY else asker.failures(answers, CELLS[cell].form)
        failed += asker.name == EMPTY and answers[0].status != 200
        self.result.rounds.append(Round(cell, asker.name, found, failed, wrong))
