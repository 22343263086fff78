"""Which of several experiments is best, and how sure that is: paired differences of test qualities.

Two experiments are compared on the tasks and seeds that both have. Seeds of one task are averaged
first, so a task counts once. The interval is Student's, with tasks as the sample: it says how the
difference would come out on other tasks like these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from rich.table import Table
from scipy import stats

from evolution.reports.measures import RunRecord, mean, summary

CONFIDENCE = 0.95
COLUMNS = ("test", "behind", "95 % interval", "worse on", "parameters", "TFLOP")
Groups = Mapping[str, Sequence[RunRecord]]


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one experiment is than another, by test quality."""

    tasks: int  # that both have
    better: int  # tasks on which it is
    mean: float
    low: float | None  # the interval; None for a single task
    high: float | None


@dataclass(frozen=True, slots=True)
class Line:
    """An experiment in the decision table."""

    experiment: str
    test: float | None  # mean over its tasks and seeds
    params_per_task: float | None  # accounted
    flops_per_task: float | None  # of the search, with all passes for features and validation
    behind: Difference | None  # of the best experiment to this; None for the best itself


def difference(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> Difference | None:
    """Of `one` to `other`; positive if `one` is better. None if they have nothing in common."""
    first, second = _tests(one), _tests(other)
    by_task: dict[str, list[float]] = {}
    for task, seed in first:
        if (task, seed) in second:
            by_task.setdefault(task, []).append(first[task, seed] - second[task, seed])
    values = [fmean(found) for found in by_task.values()]
    if not values:
        return None
    centre, better = fmean(values), sum(value > 0 for value in values)
    if len(values) == 1:
        return Difference(1, better, centre, None, None)
    factor = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half = factor * stdev(values) / math.sqrt(len(values))
    return Difference(len(values), better, centre, centre - half, centre + half)


def _tests(runs: Sequence[RunRecord]) -> dict[tuple[str, int], float]:
    """By task and seed; of several runs of one seed the last."""
    return {
        (task, run.seed): value
        for run in runs
        for task, value in run.test.items()
        if value is not None
    }


def decision(groups: Groups) -> list[Line]:
    """The experiments, the best mean test quality first."""
    tests = {group: mean(_tests(runs).values()) for group, runs in groups.items()}
    ordered = sorted(groups, key=lambda group: -(tests[group] or 0.0))
    best = ordered[0]
    return [
        Line(
            group,
            tests[group],
            mean(summary(run).params_per_task for run in groups[group]),
            mean(_flops_per_task(run) for run in groups[group]),
            None if group == best else difference(groups[best], groups[group]),
        )
        for group in ordered
    ]


def _flops_per_task(run: RunRecord) -> float | None:
    found = summary(run)
    return None if found.search_flops is None else found.search_flops / max(1, found.tasks)


def table_of(lines: Sequence[Line]) -> Table:
    """The lines for a terminal of 80 columns."""
    table = Table(box=None, pad_edge=False)
    table.add_column("experiment", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(line.experiment, *cells(line))
    return table


def cells(line: Line) -> tuple[str, ...]:
    """All of a line but its experiment, as text; "-" for what is unknown."""
    found = line.behind
    interval = "-" if found is None or found.low is None else f"{found.low:.3f} to {found.high:.3f}"
    return (
        "-" if line.test is None else f"{line.test:.4f}",
        "-" if found is None else f"{found.mean:.3f}",
        interval,
        "-" if found is None else f"{found.better} of {found.tasks}",
        "-" if line.params_per_task is None else f"{line.params_per_task:,.0f}",
        "-" if line.flops_per_task is None else f"{line.flops_per_task / 1e12:.2f}",
    )
