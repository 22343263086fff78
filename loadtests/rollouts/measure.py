"""What roll-outs, samples and an open page cost the answers: a gateway with all of them next to one
with none, in turns.

Both serve the same tasks. In the first, some tasks have a canary, others a shadow; samples are
kept; and somebody reads what the page reads. Requests come at a fixed rate, as a closed loop would
hide what makes them wait.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.table import Table

from loadtests import traffic
from loadtests.gateways import Gateway
from loadtests.peers.client import Answer, Request, open_loop
from loadtests.systems import System, backbone, last_blocks_and_head
from loadtests.traffic import Requests

ALL, NONE = "with", "without"
TASKS, SIZE, SIDE = 8, "Ti/16", 64  # pixels
SECONDS, RATE = 20.0, 60.0  # of a turn, and requests per second
CANARY = 0.05  # of the requests of every other task; the rest have shadows
COUNTED = ("munet_rollout_requests_total", "munet_samples_total")


@dataclass(frozen=True, slots=True)
class Round:
    """One gateway's turn."""

    requests: int
    failed: int
    p50_ms: float
    p99_ms: float
    memory_bytes: int  # of all its processes, afterwards


@dataclass(slots=True)
class Result:
    """The numbers of one run."""

    rounds: dict[str, list[Round]] = field(default_factory=lambda: {ALL: [], NONE: []})
    counted: dict[str, float] = field(default_factory=dict)  # what roll-outs and samples did

    def ratio(self, figure: str) -> float:
        """Median over the rounds of a figure, with them to without."""
        pairs = zip(self.rounds[ALL], self.rounds[NONE], strict=True)
        return statistics.median(getattr(a, figure) / getattr(b, figure) for a, b in pairs)


def measure(rounds: int, say: Callable[[str], None]) -> Result:
    """Makes a store for each gateway in a temporary folder, and starts both."""
    result = Result()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        gateways = {name: stack.enter_context(_gateway(root, name)) for name in (ALL, NONE)}
        requests = Requests(SIDE)
        for gateway in gateways.values():
            traffic.warm_up(gateway, requests, "task/0")
            _turn(gateway, 0)
        stack.enter_context(_Page(gateways[ALL]))
        for turn in range(rounds):
            for name in (ALL, NONE) if turn % 2 else (NONE, ALL):
                say(f"round {turn + 1} of {rounds}, {name}")
                result.rounds[name].append(_turn(gateways[name], turn))
        for series, value in traffic.samples(gateways[ALL]).items():
            if series.name in COUNTED:
                what = dict(series.labels)
                key = f"{what.get('role', 'sample')} {what['outcome']}"
                result.counted[key] = result.counted.get(key, 0.0) + value
    return result


def _gateway(root: Path, name: str) -> Gateway:
    """One on a store of its own, with every task in memory."""
    arch = backbone(SIZE, image_size=SIDE)
    system = System(str(root / name), arch, last_blocks_and_head(arch, 1))
    for number in range(TASKS):
        system.publish(f"task/{number}", number + 1)
        if name == ALL:
            weight = 0.0 if number % 2 else CANARY
            system.roll_out(f"task/{number}", number + 1 + TASKS, weight)
    kept = {"MUNET_SAMPLES": "1%", "MUNET_SAMPLES_TO": str(root / "samples")} if name == ALL else {}
    return Gateway(str(root / name), root / f"home-{name}", MUNET_PRELOAD="*", **kept)


def _turn(gateway: Gateway, turn: int) -> Round:
    """Poisson arrivals, the same for both gateways."""
    rng = np.random.default_rng(turn)
    due_s = np.cumsum(rng.exponential(1 / RATE, max(1, int(RATE * SECONDS))))
    answers = open_loop(gateway.port, _requests(turn), due_s.tolist()).all
    p50, p99 = np.percentile([one.latency_s for one in answers], [50, 99]).tolist()
    memory = gateway.proportional_bytes()
    return Round(len(answers), _failed(answers), p50 * 1e3, p99 * 1e3, memory)


def _requests(turn: int) -> Iterator[Request]:
    requests = Requests(SIDE)
    for number in itertools.count(turn):
        task = f"task/{number % TASKS}"
        yield Request(task, 0, requests.to(task))


def _failed(answers: Sequence[Answer]) -> int:
    return sum(one.status != 200 or "predictions" not in json.loads(one.body) for one in answers)


class _Page:
    """Somebody who has the page open: the table of tasks, and its stream of changes."""

    def __init__(self, gateway: Gateway) -> None:
        self._url = gateway.url
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> _Page:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """The stream ends with its gateway, which ends after this: nothing to do."""

    def _read(self) -> None:
        with suppress(OSError):
            urllib.request.urlopen(f"{self._url}/system").read()
            with urllib.request.urlopen(f"{self._url}/system/events") as stream:
                while stream.readline():
                    pass


def render(result: Result) -> Table:
    """The numbers as a table."""
    table = Table("", ALL, NONE, "ratio", title="Roll-outs, samples and an open page")
    for title, figure in (("p50, ms", "p50_ms"), ("p99, ms", "p99_ms")):
        cells = [
            f"{statistics.median(getattr(one, figure) for one in result.rounds[name]):.2f}"
            for name in (ALL, NONE)
        ]
        table.add_row(title, *cells, f"{result.ratio(figure):.2f}")
    rounds = [result.rounds[ALL], result.rounds[NONE]]
    table.add_row("requests", *(str(sum(one.requests for one in some)) for some in rounds))
    table.add_row("of them failed", *(str(sum(one.failed for one in some)) for some in rounds))
    ends = [[some[place].memory_bytes / 1e6 for place in (0, -1)] for some in rounds]
    table.add_row("memory, first and last round, MB", *(f"{a:.0f}, {b:.0f}" for a, b in ends))
    for what, count in sorted(result.counted.items()):
        table.add_row(what, f"{count:.0f}")
    return table
