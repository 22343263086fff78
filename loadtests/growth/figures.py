"""The figures of growth as SVG files: one for each cost."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from loadtests.growth.measure import Mix, Result, middle

INCHES = (4.8, 3.0)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "legend.frameon": False,
}

Band = Sequence[Sequence[float]]  # of each point: one figure, or those of all rounds


def write(result: Result, folder: Path) -> list[Path]:
    """Makes the files, in place of those that were there; names them."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Path] = []
    with matplotlib.rc_context(_STYLE):
        for name, figure in _figures(result).items():
            found.append(folder / f"growth-{name}.svg")
            found[-1].write_text(_svg(figure, name))
    return found


def _figures(result: Result) -> Mapping[str, Figure]:
    sizes = result.sizes
    tasks = [size.tasks for size in sizes]
    return {
        "memory": _over_tasks(
            tasks,
            "memory, MB (PSS)",
            {
                "every task in memory": [[s.loaded_mb] for s in sizes],
                "before the first task": [[s.empty_mb] for s in sizes],
                "the components' bytes": [[s.unique_mb] for s in sizes],
            },
        ),
        "cold": _over_tasks(
            tasks,
            "a task's first answer, ms",
            {"p99": [[s.cold_p99_ms] for s in sizes], "p50": [[s.cold_p50_ms] for s in sizes]},
        ),
        "latency": _over_tasks(
            tasks,
            "an answer, one connection, ms",
            {"p99": [s.p99_ms for s in sizes], "p50": [s.p50_ms for s in sizes]},
        ),
        "throughput": _over_tasks(
            tasks, "answers/s, 16 connections", {"": [s.rate for s in sizes]}
        ),
        "start": _over_tasks(tasks, "start to ready, s", {"": [s.start_s for s in sizes]}),
        "components": _over_components(result.mixes),
    }


def _over_tasks(tasks: Sequence[int], label: str, lines: Mapping[str, Band]) -> Figure:
    figure, axes = _axes("tasks", label)
    for name, band in lines.items():
        _line(axes, tasks, band, name)
    axes.set_xscale("log")
    axes.set_xticks(tasks, [f"{count:,}" for count in tasks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    _finish(axes)
    return figure


def _over_components(mixes: Sequence[Mix]) -> Figure:
    figure, axes = _axes("distinct components of 16 requests", "16 answers, ms")
    for shared in dict.fromkeys(mix.shared for mix in mixes):
        found = [mix for mix in mixes if mix.shared == shared]
        band = [mix.ms for mix in found]
        _line(axes, [mix.components for mix in found], band, f"tasks that share {shared}")
    _finish(axes)
    return figure


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def _line(axes: Axes, x: Sequence[float], band: Band, name: str) -> None:
    """Medians, and the least and the most of the rounds."""
    (line,) = axes.plot(x, [middle(found) for found in band], marker="o", ms=4, label=name or None)
    least, most = [min(found) for found in band], [max(found) for found in band]
    axes.fill_between(x, least, most, color=line.get_color(), alpha=0.15, lw=0)


def _finish(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()


def _svg(figure: Figure, name: str) -> str:
    """The same text for the same figures."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    with matplotlib.rc_context({"svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())
