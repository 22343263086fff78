"""A batcher on a fake clock with a fake engine, and tests in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.compute.batching import Ask, Batcher, BatchReport, Done, Limits
from service.compute.decoders import Piece, Turn
from tests.service.simulation import AtOnce
from tests.service.waiting import PATIENCE_S

FAR = 1e9
Answer = asyncio.Future[list[Done[int]]]


@dataclass
class Clock:
    """A clock that stands still until told otherwise."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Recorder:
    """An engine that answers each row with itself, and fails on rows that are negative."""

    clock: Clock = field(default_factory=Clock)
    seconds: float = 0.0  # of each batch
    batches: list[list[int]] = field(default_factory=list)

    def __call__(self, rows: Sequence[int]) -> list[int]:
        self.batches.append(list(rows))
        self.clock.now += self.seconds
        if any(row < 0 for row in rows):
            raise RuntimeError("negative row")
        return list(rows)


class Later:
    """Threads that work when they are told to, in the caller's thread."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    def submit(self, ask: Ask, piece: Piece) -> Turn:
        self.turns.append(Turn(ask, piece))
        return self.turns[-1]

    def run(self, pieces: int = 1000) -> None:
        for _ in range(min(pieces, 1000)):
            if self.turns and (piece := self.turns[0].piece) is not None and piece():
                continue
            self.turns = self.turns[1:]


class Bench:
    """A batcher whose engine knows already that batches of 4 rows take no longer than others."""

    def __init__(self, *, rows: int = 4, per_task: int = 8, total: int = 16) -> None:
        self.run = Recorder()
        self.clock = self.run.clock
        self.reports: list[BatchReport] = []
        limits = Limits(rows, per_task, total)
        self.batcher = Batcher[int, int](
            self.run, limits, clock=self.clock, report=self.reports.append
        )
        for size in [size for size in (1, 2, 4) if size <= rows]:
            for _ in range(4):
                self.batcher._throughput.note(size, float(size), 1e-9, 1e-9)

    def submit(self, rows: Sequence[int], tasks: str, deadline: float = FAR, **more: Any) -> Answer:
        costs = more.pop("costs", [1.0] * len(tasks))
        timings = more.pop("timings", None)
        ask = Ask(tasks, costs, deadline, **more)
        return self.batcher.submit(ask, lambda: rows, AtOnce(), timings)

    async def step(self) -> bool:
        ran = self.batcher.step(0)
        await asyncio.sleep(0)
        return ran

    async def drain(self) -> None:
        while len(self.batcher):
            await self.step()


def story(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Runs a test in an event loop."""

    def run() -> None:
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def soon(answer: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(answer, PATIENCE_S)


class Held:
    """An engine whose batches end when they are told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self._ends = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, rows: Sequence[int]) -> list[int]:
        self.batches.append(list(rows))
        self.begun.release()
        assert self._ends.acquire(timeout=PATIENCE_S)
        return list(rows)

    def end(self, batches: int) -> None:
        self._ends.release(batches)

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=PATIENCE_S)


def submit(batcher: Batcher[int, int], row: int, task: str = "a", **more: Any) -> Answer:
    return batcher.submit(Ask([task], [1.0], FAR, **more), lambda: [row], AtOnce())
