"""Timing of calls side by side, so that a neighbour's noise meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

Seconds = dict[str, list[float]]  # what was timed -> one value per round


def interleaved(
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    before: Callable[[str], None] = lambda name: None,
) -> Seconds:
    """Times every case once per round, each round in another order.

    `before` prepares a case, untimed; so is the end of what a case returned.
    """
    seconds: Seconds = {name: [] for name in cases}
    names = list(cases)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            before(name)
            start = time.perf_counter()
            result = cases[name]()
            seconds[name].append(time.perf_counter() - start)
            del result
    return seconds


def median(seconds: list[float]) -> float:
    """The middle one."""
    return float(np.median(seconds))


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median of the ratios within each round: what slowed a whole round down is not in it."""
    return float(np.median(np.divide(numerator, denominator)))


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile, as values of a line."""
    p50, p99 = np.percentile(seconds, [50, 99]).tolist()
    return {"median ms": p50 * 1000, "p99 ms": p99 * 1000}
