"""One batch: its rows, which rows may still join, and its report."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, Protocol, TypeVar

from service.compute.submission import Submission

RowT = TypeVar("RowT")
AnswerT = TypeVar("AnswerT")
Rest = Callable[[Callable[[], bool]], None]  # asks its argument before each step whether to go on


class Shadows(Protocol[RowT, AnswerT]):  # pyright: ignore[reportInvalidTypeVarUse]
    """Runs batches with rows that have shadows, as `service.compute.shadows` does."""

    def run(self, rows: Sequence[RowT]) -> tuple[Sequence[AnswerT], Rest]:
        """Answers of the rows, and what is left to do for their shadows."""
        ...

    def drop(self, rows: Sequence[RowT]) -> None:
        """Their shadows get nothing."""
        ...


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What was dispatched, for the metrics."""

    rows: int
    tasks: int
    reason: str  # target_rows | all_waiting
    waits: Sequence[float] = field(default=(), compare=False)  # of each request, in seconds


@dataclass(slots=True)
class Stream:
    """One engine thread."""

    changed: threading.Condition  # on the batcher's lock: rows wait for it, or it has to end
    idle: bool = False  # it waits for rows
    thread: threading.Thread | None = None
    clock: int | None = None  # of the processor's time that it takes
    busy_until: float | None = None  # forecast, while a batch runs
    free_since: float = math.inf  # end of the batch that this one followed without a pause


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
        self.shadowed = False  # whether rows have shadows
        self.rest: Rest | None = None  # what is left to do for these

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
        self.shadowed = self.shadowed or request.ask.shadowed
        self._light_rows += len(request.rows) if request.light else 0

    def run(
        self,
        run: Callable[[Sequence[RowT]], Sequence[AnswerT]],
        shadows: Shadows[RowT, AnswerT] | None,
        *,
        others_wait: bool,
    ) -> Sequence[AnswerT]:
        """Its rows' answers; shadows are left for later, or dropped where others wait already."""
        rows = [row for request in self.requests for row in request.rows]
        if not self.shadowed or shadows is None:
            return run(rows)
        if others_wait:
            shadows.drop(rows)
            return run(rows)
        answers, self.rest = shadows.run(rows)
        return answers
