"""Copies of rows for versions that are tried out silently.

A shadow's row shares the prefix of its components with the row that it copies: the batch computes
the prefix once. What differs is computed after the batch has been answered, on the same stream, and
only while no row waits: it is dropped first. So it delays no answer of its batch, and another batch
by one step at most; what goes wrong with it is noted, and nobody else is told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from service.compute.batch import Rest
from service.compute.engine import Engine
from service.compute.paths import Row, Shadow, ShadowAnswer

logger = logging.getLogger(__name__)
Logits = NDArray[np.float32]


class Shadows:
    """Runs batches of which rows have shadows; any thread."""

    def __init__(
        self, engine: Engine, ran: Callable[[Sequence[Row], float], None] = lambda *_: None
    ) -> None:
        """`ran` is told of the rows of a batch, without copies, and of its seconds."""
        self._engine = engine
        self._ran = ran

    def run(self, rows: Sequence[Row]) -> tuple[Sequence[Logits], Rest]:
        """Logits of each row, and what is left to do for their shadows."""
        copied = [(place, one) for place, row in enumerate(rows) for one in row.shadows]
        later = [Row(one.path, rows[place].images) for place, one in copied]
        began = time.monotonic()
        answers, fork = self._engine.begin(rows, later)
        self._ran(rows, time.monotonic() - began)

        def rest(go_on: Callable[[], bool]) -> None:
            started, outcome, found = time.monotonic(), "dropped", None
            try:
                found = self._engine.finish(fork, later, go_on) if fork else None
            except Exception:
                logger.exception("event=shadow_failed rows=%d", len(later))
                outcome = "failed"
            seconds = (time.monotonic() - started) / max(1, len(later))
            for at, (place, one) in enumerate(copied):
                row, live = rows[place], answers[place]
                if found is None:
                    _tell(one, ShadowAnswer(outcome, row, live))
                else:
                    _tell(one, ShadowAnswer("answered", row, live, found[at], seconds))

        return answers, rest

    def drop(self, rows: Sequence[Row]) -> None:
        """Rows whose shadows get no copy, as others wait."""
        for row in rows:
            for one in row.shadows:
                _tell(one, ShadowAnswer("dropped", row))


def _tell(shadow: Shadow, answer: ShadowAnswer) -> None:
    with suppress(Exception):  # nothing of it may end the thread that answers requests
        shadow.note(answer)
