"""A batcher in virtual time: arrivals, an engine of a given speed, and who was answered when."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from service.compute.batching import Ask, Batcher, Limits
from service.compute.decoders import Piece, Turn
from service.errors import GatewayError

Speed = Callable[[int], float]  # rows of a batch -> seconds


class AtOnce:
    """Runs in the caller's thread what it is given."""

    def submit(self, ask: Ask, piece: Piece) -> Turn:
        while piece():
            pass
        return Turn(ask, None)


@dataclass(eq=False)
class Arrival:
    """One request of one row, and what became of it."""

    at: float
    task: str
    cost: float = 1.0
    patience: float = 1e6  # seconds to its deadline
    priority: int = 0
    finished: float | None = None
    refused: GatewayError | None = None  # at once

    @property
    def latency(self) -> float:
        assert self.finished is not None
        return self.finished - self.at

    @property
    def good(self) -> bool:
        return self.finished is not None and self.latency <= self.patience


@dataclass
class Simulation:
    """Runs all arrivals to their end; `speed` may change between batches."""

    speed: Speed
    limits: Limits = field(default_factory=lambda: Limits(32, 256, 1024))
    now: float = 0.0
    batches: list[list[Arrival]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batcher = Batcher[Arrival, int](self._run, self.limits, clock=lambda: self.now)
        self._order = itertools.count()
        self._coming: list[tuple[float, int, Arrival]] = []

    def play(self, arrivals: Iterable[Arrival]) -> None:
        """From the first arrival to the last answer."""
        for arrival in arrivals:
            self.expect(arrival)
        asyncio.run(self._play())

    def expect(self, arrival: Arrival) -> None:
        heapq.heappush(self._coming, (arrival.at, next(self._order), arrival))

    async def _play(self) -> None:
        while self._coming or len(self.batcher):
            if not len(self.batcher):
                self.batcher.step(0)  # as its thread does: the engine has a pause
                self._arrive_until(self._coming[0][0])
            self.batcher.step(0)
            await asyncio.sleep(0)  # futures are settled

    def _arrive_until(self, end: float) -> None:
        while self._coming and self._coming[0][0] <= end:
            at, _, arrival = heapq.heappop(self._coming)
            self.now = max(self.now, at)
            deadline = arrival.at + arrival.patience
            ask = Ask([arrival.task], [arrival.cost], deadline, arrival.priority)
            try:
                answer = self.batcher.submit(ask, partial(list, (arrival,)), AtOnce())
                answer.add_done_callback(lambda done: done.exception())
            except GatewayError as error:
                arrival.refused = error
        self.now = max(self.now, end)

    def _run(self, rows: Sequence[Arrival]) -> list[int]:
        self.batches.append(list(rows))
        self._arrive_until(self.now + self.speed(len(rows)))
        for row in rows:
            row.finished = self.now
        return [0] * len(rows)


def poisson(
    rng: np.random.Generator, rate: float, seconds: float, tasks: Sequence[str], **fields: float
) -> list[Arrival]:
    """Arrivals of all tasks alike."""
    times = rng.uniform(0.0, seconds, rng.poisson(rate * seconds))
    return [Arrival(at, tasks[rng.integers(len(tasks))], **fields) for at in np.sort(times)]
