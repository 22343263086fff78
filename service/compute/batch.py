"""One batch: its rows, which rows may still join, and its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, TypeVar

from service.compute.submission import Submission

RowT = TypeVar("RowT")
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What was dispatched, for the metrics."""

    rows: int
    tasks: int
    reason: str  # full | engine_free
    waits: Sequence[float] = field(default=(), compare=False)  # of each request, in seconds


class Order(Enum):
    """How the next batch is filled from what waits."""

    ARRIVAL = auto()  # the oldest first: all that waits fits into each stream's next batch
    FAIR = auto()  # between flows: more waits than they take
    CONSIDERATE = auto()  # fair, and short: light tasks come during a flood


class Batch(Generic[RowT, AnswerT]):
    """A batch that is being filled."""

    def __init__(self, limit: int, free_rows: Callable[[int], int]) -> None:
        self._limit = limit  # rows
        self._free_rows = free_rows
        self._light_rows = 0
        self.requests: list[Submission[RowT, AnswerT]] = []
        self.rows = 0
        self.work = 0.0

    @property
    def full(self) -> bool:
        """Whether no further row may join."""
        return self.rows >= self._limit

    def has_room(self, request: Submission[RowT, AnswerT]) -> bool:
        """Whether it may join: the batch stays small enough, and no light task waits long."""
        rows = self.rows + len(request.rows)
        if not self.requests:
            return True
        if self._light_rows and not request.light and rows > self._free_rows(self._light_rows):
            return False
        return rows <= self._limit

    def add(self, request: Submission[RowT, AnswerT]) -> None:
        """Joins it."""
        self.requests.append(request)
        self.rows += len(request.rows)
        self.work += request.ask.work
        self._light_rows += len(request.rows) if request.light else 0
