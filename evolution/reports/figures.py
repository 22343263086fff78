"""Charts of runs as matplotlib figures, and their SVG files.

Text and axes have one colour, INK, which a page may replace to follow its theme. Thousands of marks
are drawn as an image inside the SVG, so that no figure has more than some thousand elements. Draw
inside `style()`.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from evolution.reports.hyperparameters import Distribution, sort_key

INK = "#16181d"
ROOT_COLOUR = "#9aa0a6"
MAX_MARKS = 1_500  # more marks of one kind become an image
MAX_NAMED = 16  # more points than this would hide each other's names
MAX_NUMBERED = 25  # columns of a matrix with room for numbers in its cells
WIDTH = 9.6  # inches

Series = tuple[Sequence[float], Sequence[float]]  # x and y
Bounds = tuple[np.ndarray, np.ndarray]  # mean and standard deviation at x = 1, 2, ...

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.formatter.useoffset": False,  # each tick tells its whole value
    "grid.alpha": 0.15,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


def style() -> AbstractContextManager[None]:
    """A context with the settings for drawing and saving figures."""
    return matplotlib.rc_context(_STYLE)


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG document; its ids start from `name`, so that pages can hold several."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    with matplotlib.rc_context({"svg.hashsalt": name}):
        none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, dpi=144, metadata=none)
    # matplotlib numbers its groups again in each figure, and nothing refers to them.
    return re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", buffer.getvalue())


def task_colours(tasks: Sequence[str], private: frozenset[str] = frozenset()) -> dict[str, str]:
    """Task -> colour: the turbo map from .16 to .84 over the order, private ones lightened."""
    colours = {}
    for task, at in zip(tasks, np.linspace(0.16, 0.84, max(len(tasks), 2)), strict=False):
        lighter = 0.4 * (task in private)
        red, green, blue = (min(c + lighter, 1.0) for c in colormaps["turbo"](at)[:3])
        colours[task] = to_hex((red, green, blue))
    return colours


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """Group -> colour; ten of them, then again from the first."""
    return {group: to_hex(colormaps["tab10"](i % 10)) for i, group in enumerate(groups)}


def _single(width: float = WIDTH, height: float = 4.2) -> tuple[Figure, Axes]:
    figure = Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


def grid(names: Sequence[str], columns: int, height: float) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a small chart for each name, which is its title; `height` in inches."""
    rows = math.ceil(len(names) / columns)
    tall = rows * height
    figure = Figure((WIDTH, tall))
    # By hand: an automatic layout of sixty charts takes more time than all the rest.
    figure.subplots_adjust(
        left=0.55 / WIDTH, right=1 - 0.15 / WIDTH, bottom=0.35 / tall, top=1 - 0.3 / tall,
        wspace=0.3, hspace=0.62 / (height - 0.62),
    )  # fmt: skip
    charts: dict[str, Axes] = {}
    for i, name in enumerate(names):
        charts[name] = axes = figure.add_subplot(rows, columns, i + 1)
        axes.set_title(_shortened(name, 100 // columns), loc="left", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    return figure, charts


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def joined(lines: Sequence[Series]) -> Series:
    """Several lines as one line with gaps, so that they are one element."""
    x = [value for line in lines for value in (*line[0], math.nan)]
    y = [value for line in lines for value in (*line[1], math.nan)]
    return x, y


def descent(
    edges: Mapping[str, Sequence[Series]], final: Series, colours: Mapping[str, str], label: str
) -> Figure:
    """Lines from parent to child by task; final paths are marked."""
    figure, axes = _single(height=5)
    many = sum(len(lines) for lines in edges.values()) > MAX_MARKS
    for task, lines in edges.items():
        axes.plot(*joined(lines), color=colours[task], lw=0.7, alpha=0.6)
        ends = [(x[-1], y[-1]) for x, y in lines]
        axes.plot(
            *zip(*ends, strict=True), ls="", marker=".", ms=2.5,
            color=colours[task], rasterized=many,
        )  # fmt: skip
    axes.plot(*final, ls="", marker="+", ms=9, mew=1.5, color=INK)
    axes.set(xlabel="id of the sampled path", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def curves(
    lines: Mapping[str, Series], colours: Mapping[str, str], mean: Series, label: str
) -> Figure:
    """Best validation quality over sampled paths: a line for each task, and their mean."""
    figure, axes = _single()
    for task, line in lines.items():
        axes.step(*line, where="post", color=colours[task], lw=1.1)
    axes.step(*mean, where="post", color=INK, lw=2, ls="--", label="mean of the tasks met so far")
    axes.set(xlabel="sampled paths", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right")
    return figure


def task_curves(
    points: Mapping[str, Sequence[float]],
    best: Mapping[str, Sequence[float]],
    colours: Mapping[str, str],
) -> Figure:
    """A chart for each task: every child's validation quality, and the best so far."""
    figure, charts = grid(list(points), 4, 1.7)
    many = sum(len(values) for values in points.values()) > MAX_MARKS
    for task, axes in charts.items():
        x = range(1, len(points[task]) + 1)
        axes.plot(x, points[task], ls="", marker=".", ms=3, color=colours[task], rasterized=many)
        axes.step(x, best[task], where="post", color=INK, lw=1)
    return figure


def trade_off(
    charts: Sequence[tuple[str, Mapping[str, tuple[float, float]]]],
    colours: Mapping[str, str],
    label: str,
) -> Figure:
    """Quality against costs, a chart for each: (name of the cost, task -> (cost, quality))."""
    figure = Figure((WIDTH, 4.4), layout="constrained")
    for i, (cost, points) in enumerate(charts):
        axes = figure.add_subplot(1, len(charts), i + 1)
        for task, (x, y) in points.items():
            axes.plot(x, y, "o", ms=7, color=colours[task], mec=INK, mew=0.4)
            if len(points) <= MAX_NAMED:
                axes.annotate(
                    task, (x, y), (6, 4), textcoords="offset points", fontsize=7, clip_on=False
                )
        x, y = np.mean(list(points.values()), axis=0)
        axes.plot(x, y, "+", ms=16, mew=2, color=INK, label="mean of the tasks", ls="")
        axes.set(xlabel=cost, ylabel=label)
        spread_out(axes, [x for x, _ in points.values()])
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.margins(0.12)
        axes.legend(loc="best")
    return figure


def spread_out(axes: Axes, values: Sequence[float], *, vertical: bool = False) -> None:
    """A logarithmic axis if the values span more than a factor of twenty."""
    if min(values) > 0 and max(values) > 20 * min(values):
        (axes.set_yscale if vertical else axes.set_xscale)("log")


def groups_trade_off(
    groups: Mapping[str, tuple[tuple[float, float], tuple[float, float]]],
    colours: Mapping[str, str],
    label: str,
) -> Figure:
    """Mean test quality against parameters per task: (mean, deviation) of both, by group."""
    figure, axes = _single()
    for group, (cost, quality) in groups.items():
        axes.errorbar(
            cost[0], quality[0], xerr=cost[1], yerr=quality[1],
            fmt="o", ms=8, capsize=3, color=colours[group], label=_legend(group),
        )  # fmt: skip
    axes.set(xlabel="parameters per task", ylabel=label)
    spread_out(axes, [cost[0] for cost, _ in groups.values()])
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.margins(0.1)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def group_curves(groups: Mapping[str, Bounds], colours: Mapping[str, str], label: str) -> Figure:
    """A line with a band of one standard deviation for each group."""
    figure, axes = _single()
    for group, bounds in groups.items():
        _band(axes, bounds, colours[group], _legend(group))
    axes.set(xlabel="sampled paths", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _legend(group: str) -> str:
    return textwrap.fill(group, 36)


def _band(axes: Axes, bounds: Bounds, colour: str, label: str = "") -> None:
    centre, deviation = bounds
    x = np.arange(1, len(centre) + 1)
    axes.plot(x, centre, color=colour, lw=1.4, label=label or None)
    if deviation.any():
        axes.fill_between(x, centre - deviation, centre + deviation, color=colour, alpha=0.18, lw=0)


def group_task_curves(
    tasks: Mapping[str, Mapping[str, Bounds]], colours: Mapping[str, str]
) -> Figure:
    """A chart for each task (task -> group -> curve), the groups above each other."""
    figure, charts = grid(list(tasks), 2, 2.3)
    for task, axes in charts.items():
        for group, bounds in tasks[task].items():
            _band(axes, bounds, colours[group])
    return figure


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    labels: tuple[str, str],
    form: str,
) -> Figure:
    """A matrix [rows, columns], with numbers if there is room; NaN stays empty."""
    cell = float(np.clip(8.4 / len(columns), 0.15, 0.42))  # inches
    size = min(8.0, 48 * cell)
    names = 0.0095 * size * max(len(name) for name in (*rows, *columns)) + 0.5
    figure, axes = _single(
        max(cell * len(columns) + names, 4.0), max(cell * len(rows) + names, 3.0)
    )
    axes.pcolormesh(
        values, cmap="Blues", vmin=0, edgecolors="none", rasterized=values.size > MAX_MARKS
    )
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90, fontsize=size)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=size)
    axes.set(xlabel=labels[0], ylabel=labels[1], aspect="equal")
    axes.invert_yaxis()
    axes.grid(False)
    if len(columns) <= MAX_NUMBERED:
        _write_numbers(axes, values, form)
    return figure


def _write_numbers(axes: Axes, values: np.ndarray, form: str) -> None:
    high = np.nanmax(values, initial=0)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value) and value:
            colour = "#ffffff" if value > 0.55 * high else "#101216"
            axes.text(
                j + 0.5, i + 0.5, format(value, form), ha="center", va="center",
                fontsize=7, color=colour,
            )  # fmt: skip


def histories(
    names: Mapping[str, Mapping[str, Sequence[tuple[int, Any]]]], colours: Mapping[str, str]
) -> Figure:
    """A chart for each hyperparameter (name -> task -> [(id, value)]), a line for each task."""
    figure, charts = grid(list(names), 3, 1.8)
    for name, axes in charts.items():
        lines = names[name]
        values = [value for line in lines.values() for _, value in line if value is not None]
        positions, labels = _positions(values)
        for task, line in lines.items():
            x = [i for i, _ in line]
            y = [math.nan if value is None else positions[_key(value)] for _, value in line]
            axes.step(x, y, where="post", lw=1, color=colours[task], alpha=0.85)
        if labels:
            axes.set_yticks(range(len(labels)), labels)
        else:
            spread_out(axes, list(positions.values()), vertical=True)
    return figure


def _key(value: Any) -> Any:
    return str(value) if isinstance(value, bool | str | list | tuple | dict) else value


def _positions(values: Sequence[Any]) -> tuple[dict[Any, float], list[str]]:
    """Value -> place on an axis; with labels if the values are not numbers."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return {value: float(value) for value in values}, []
    distinct = sorted({_key(value) for value in values}, key=sort_key)
    return {value: float(i) for i, value in enumerate(distinct)}, [str(v) for v in distinct]


def bars(distributions: Mapping[str, Distribution]) -> Figure:
    """A chart for each hyperparameter: shares of its values among sampled and retained paths."""
    figure, charts = grid(list(distributions), 4, 1.9)
    for name, axes in charts.items():
        found = distributions[name]
        x = np.arange(len(found.values))
        axes.bar(x - 0.2, found.sampled, 0.4, color=ROOT_COLOUR)
        axes.bar(x + 0.2, found.retained, 0.4, color="#2878b5")
        labels = ["none" if value is None else _shortened(f"{value}", 8) for value in found.values]
        every = math.ceil(len(labels) / 14)
        axes.set_xticks(x[::every], labels[::every], rotation=90, fontsize=6)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.grid(False, axis="x")
    return figure


def histograms(columns: Mapping[str, Sequence[float]]) -> Figure:
    """A chart for each column: how many sampled paths have a value in each of 30 ranges.

    Whole numbers have one bar each instead.
    """
    figure, charts = grid(list(columns), 2, 2.3)
    for name, axes in charts.items():
        values = columns[name]
        whole = all(isinstance(value, int) for value in values)
        edges = np.arange(min(values) - 0.5, max(values) + 1).tolist() if whole else 30
        axes.hist(values, edges, color="#2878b5", rwidth=0.9)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set(ylabel="sampled paths")
    return figure
