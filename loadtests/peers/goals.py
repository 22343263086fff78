"""What is aimed at, in figures of a run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loadtests.peers.measure import Result
from loadtests.peers.plan import EMPTY, OURS

START_MS = 700.0  # beyond an empty `bentoml serve`
MEMORY_MB = 80.0  # beyond it and the components' bytes
COMPONENTS = 1.15  # of these


@dataclass(frozen=True, slots=True)
class Goal:
    """One of them, and what was found."""

    what: str
    found: float
    limit: float
    at_least: bool = False  # else at most

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.found >= self.limit if self.at_least else self.found <= self.limit


@dataclass(frozen=True, slots=True)
class _Ratio:
    """Of ours to a peer's in one cell."""

    cell: str
    peer: str
    figure: str
    limit: float

    def goal(self, result: Result) -> Goal | None:
        """None where one of the two was not measured."""
        found = ratios(result, self.cell, self.peer, self.figure)
        if not found:
            return None
        what = f"{self.cell}: {self.figure.partition('_')[0]} to {self.peer}'s"
        return Goal(what, statistics.median(found), self.limit, self.figure == "rate")


def _ratios() -> Iterator[_Ratio]:
    for cell in ("uniform", "zipf"):
        yield _Ratio(cell, "split-batch2", "rate", 1.0)
        yield _Ratio(cell, "bare", "rate", 1.25)
        yield _Ratio(cell, "triton", "rate", 1.25)
        yield _Ratio(cell, "bare", "p99_ms", 1.3)
    for cell in ("disjoint", "large"):
        yield _Ratio(cell, "bare", "rate", 0.95)
        yield _Ratio(cell, "bare", "p99_ms", 1.5)
    for cell, limit in (("one", 1.05), ("pauses", 1.1), ("open", 1.1)):
        yield _Ratio(cell, "bare", "p50_ms", limit)
    for cell in ("pauses", "open"):
        yield _Ratio(cell, "bare", "p99_ms", 1.1)


def ratios(result: Result, cell: str, peer: str, figure: str) -> list[float]:
    """Of ours to theirs in each round that both have; none where one of the two failed."""
    if any(any(result.failed(cell, server)) for server in (OURS, peer)):
        return []
    ours, theirs = result.of(cell, OURS), result.of(cell, peer)
    return [
        one.figures[figure] / other.figures[figure]
        for one, other in zip(ours, theirs, strict=False)
        if figure in one.figures and figure in other.figures
    ]


def goals(result: Result) -> list[Goal]:
    """Those whose cells were measured."""
    cells = dict.fromkeys(round.cell for round in result.rounds)
    failed = sum(sum(result.failed(cell, OURS)) for cell in cells)
    found = [goal for ratio in _ratios() if (goal := ratio.goal(result))]
    return [Goal("failed requests and wrong answers", failed, 0), *found, *_others(result)]


def _others(result: Result) -> Iterator[Goal]:
    def figure(
        cell: str, server: str, name: str, of: Callable[[list[float]], float] = statistics.median
    ) -> float | None:
        found = [r.figures[name] for r in result.of(cell, server) if name in r.figures]
        return of(found) if found else None

    if (found := figure("zipf", OURS, "most_asked")) is not None:
        yield Goal("zipf: most asked task's p50 to the median task's", found, 1.5)
    for cell, tasks in (("alone", "shared"), ("many-alone", "many")):
        empty, ours = figure(cell, EMPTY, "pss_mb"), figure(cell, OURS, "pss_mb")
        if empty is not None and ours is not None:
            unique_mb = result.unique_bytes[tasks] / 1e6
            limit = empty + COMPONENTS * unique_mb + MEMORY_MB
            yield Goal(f"{cell}: memory, MB ({unique_mb:.0f} MB of components)", ours, limit)
        empty, ours = figure(cell, EMPTY, "first_ms"), figure(cell, OURS, "first_ms")
        if empty is not None and ours is not None:
            yield Goal(f"{cell}: start to first answer, ms", ours, empty + START_MS)
    cold, warm = (figure("many-alone", OURS, f"{what}_p50_ms") for what in ("cold", "warm"))
    if cold is not None and warm is not None:
        yield Goal("many-alone: first answer to a warm one's p50", cold / warm, 3.0)
    longest = figure("added", OURS, "longest_ms", max)
    before = figure("added", OURS, "before_p99_ms")
    if longest is not None and before is not None:
        yield Goal("added: longest of the others to their p99 before", longest / before, 1.5)
