"""The loss and learning rate of each step of a child's training.

The compiled programs return both for every step, and they are copied to the host once a round. A
record keeps at most MOST_POINTS of a child. A longer training is cut into stretches of equal length
(the last may be shorter), and a point is the mean over its stretch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolution.training.programs import Descent

MOST_POINTS = 100  # of a child
DIGITS = 6  # float32 has seven


class Curve(NamedTuple):
    """Losses and learning rates of consecutive steps, [steps] each, float32."""

    losses: NDArray[np.float32]
    rates: NDArray[np.float32]

    @classmethod
    def of(cls, descents: Sequence[tuple[Descent, int]]) -> Curve:
        """Those of consecutive calls, each with the number of its steps; waits for them."""
        return cls.joined([
            cls(np.asarray(descent.losses)[:steps], np.asarray(descent.rates)[:steps])
            for descent, steps in descents
        ])  # fmt: skip

    @classmethod
    def joined(cls, curves: Sequence[Curve]) -> Curve:
        """Consecutive curves as one."""
        none = np.zeros(0, np.float32)
        return cls(
            np.concatenate([none, *(curve.losses for curve in curves)]),
            np.concatenate([none, *(curve.rates for curve in curves)]),
        )

    def record(self, most: int = MOST_POINTS) -> dict[str, Any]:
        """The record in a history: at most `most` points, as JSON.

        `steps` is the number of steps. Point i is the mean over steps i·`every` up to
        (i + 1)·`every`, or None if the mean is not finite, as in a training that diverged.
        """
        steps = len(self.losses)
        every = max(1, math.ceil(steps / most))
        return {
            "steps": steps,
            "every": every,
            "loss": _means(self.losses, every),
            "learning_rate": _means(self.rates, every),
        }


def _means(values: NDArray[np.float32], every: int) -> list[float | None]:
    starts = range(0, len(values), every)
    means = [float(values[at : at + every].astype(np.float64).mean()) for at in starts]
    return [float(f"{mean:.{DIGITS}g}") if math.isfinite(mean) else None for mean in means]


class Point(NamedTuple):
    """A stretch of a child's training in its record."""

    step: int  # the last one of the stretch, counted from 1
    loss: float | None  # None if it was not a finite number
    rate: float | None


def points(record: Mapping[str, Any] | None) -> list[Point]:
    """The points of a record, in order; empty for children of earlier versions, which have none."""
    if record is None:
        return []
    every, steps = record["every"], record["steps"]
    values = zip(record["loss"], record["learning_rate"], strict=True)
    return [Point(min((i + 1) * every, steps), *value) for i, value in enumerate(values)]
