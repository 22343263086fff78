"""Charts of the training of children."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.figure import Figure

from evolution.reports import figures
from evolution.training.curves import Point

MOST_POINTS = 20_000  # more of them become an image


def by_step(
    tasks: Mapping[str, Mapping[int, Sequence[Point]]],
    retained: Mapping[str, int],
    colours: Mapping[str, str],
    value: Literal["loss", "rate"],
    *,
    spread_out: bool = False,
) -> Figure:
    """A chart for each task (task -> child -> points), a line for each child.

    `retained` is the child of each task that is drawn black. `spread_out`: axes may be logarithmic.
    """
    figure, charts = figures.grid(list(tasks), 2, 2.3)
    count = sum(len(curve) for children in tasks.values() for curve in children.values())
    for task, axes in charts.items():
        lines = {child: _line(curve, value) for child, curve in tasks[task].items()}
        others = [line for child, line in lines.items() if child != retained[task]]
        axes.plot(
            *figures.joined(others), color=colours[task], lw=0.8, alpha=0.55,
            rasterized=count > MOST_POINTS,
        )  # fmt: skip
        if retained[task] in lines:
            axes.plot(*lines[retained[task]], color=figures.INK, lw=1.3)
        known = [y for _, line in lines.values() for y in line if math.isfinite(y)]
        if spread_out and known:
            figures.spread_out(axes, known, vertical=True)
        else:
            axes.set_ylim(bottom=0)
    return figure


def _line(curve: Sequence[Point], value: Literal["loss", "rate"]) -> figures.Series:
    values = (point.loss if value == "loss" else point.rate for point in curve)
    return [point.step for point in curve], [math.nan if y is None else y for y in values]
