"""Runs a batch: its rows' answers, and what the run cost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.compute.batch import Batch, Shadows
from service.compute.submission import Outcome, Submission, split
from service.errors import InternalError

logger = logging.getLogger(__name__)
RowT = TypeVar("RowT")
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Ran(Generic[RowT, AnswerT]):
    """How a batch went."""

    outcomes: list[tuple[Submission[RowT, AnswerT], Outcome[AnswerT]]]
    ended: float
    cost_s: float | None  # None where it failed, and each request ran alone


class Runner(Generic[RowT, AnswerT]):
    """The engine, and what it takes of the clocks; any thread."""

    def __init__(
        self,
        run: Callable[[Sequence[RowT]], Sequence[AnswerT]],
        shadows: Shadows[RowT, AnswerT] | None,
        clock: Callable[[], float],
        cost_clock: Callable[[], float],
    ) -> None:
        """As of the Batcher."""
        self._run = run
        self._shadows = shadows
        self._clock = clock
        self._cost_clock = cost_clock

    def batch(self, batch: Batch[RowT, AnswerT], *, others_wait: bool) -> Ran[RowT, AnswerT]:
        """One bad row must not fail its batch mates: then each request runs alone."""
        try:
            before_s = self._cost_clock()
            answers = batch.run(self._run, self._shadows, others_wait=others_wait)
            cost_s, ended = self._cost_clock() - before_s, self._clock()
            return Ran(list(split(batch.requests, answers, ended)), ended, cost_s)
        except Exception:
            logger.exception("event=batch_failed rows=%d retried=one_by_one", batch.rows)
            outcomes = [(request, self._alone(request)) for request in batch.requests]
            return Ran(outcomes, self._clock(), None)

    def _alone(self, request: Submission[RowT, AnswerT]) -> Outcome[AnswerT]:
        try:
            answers = self._run(request.rows)
            return next(split([request], answers, self._clock()))[1]
        except Exception as error:
            request.timings.ran = self._clock()
            logger.error("event=request_failed task=%s error=%r", request.ask.tasks[0], error)
            return InternalError("the engine failed on this image")
