"""The engine's figures as tables for people and a JSON line for machines."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.table import Table

from loadtests import traffic
from loadtests.engine.bench import OURS, Report, Setup, Speed


def render(report: Report) -> RenderableType:
    """The run as tables for a terminal."""
    return Group(_speeds(report), _mixing(report), _starts(report))


def _best_peer(speed: Speed) -> float | None:
    return max((v for who, v in speed.gflops.items() if not who.startswith(OURS)), default=None)


def _speeds(report: Report) -> Table:
    columns = ("GFLOP/s", "of the peak", "to the best peer")
    table = Table("network", "rows", "by", *columns, title="Whole networks, float32")
    for speed in report.speeds:
        best = _best_peer(speed)
        for who, gflops in speed.gflops.items():
            ratio = "-" if best is None else f"{gflops / best:.2f}"
            share = f"{gflops / speed.peak_gflops:.0%}"
            table.add_row(speed.network, str(speed.rows), who, f"{gflops:.0f}", share, ratio)
        table.add_section()
    return table


def _mixing(report: Report) -> Table:
    table = Table(
        *("network", "back end", "8 tasks", "32 tasks", "32 tasks, one image"),
        title="Time of 32 rows, to that of one task's",
    )
    for mixed in report.mixing:
        ratios = (*(ratio for count, ratio in mixed.tasks.items() if count > 1), mixed.same_image)
        table.add_row(mixed.network, mixed.backend, *(f"{ratio:.2f}" for ratio in ratios))
    return table


def _starts(report: Report) -> Table:
    columns = ("programs", "cold, s", "kept on disk, s", "compiled again")
    table = Table("network", "back end", *columns, title="Making programs ready")
    for start in report.starts:
        seconds = f"{start.cold_s:.2f}", f"{start.warm_s:.2f}"
        counts = str(start.programs), str(start.compiled_warm)
        table.add_row(start.network, start.backend, counts[0], *seconds, counts[1])
    return table


def json_line(setup: Setup, report: Report) -> str:
    """The run as one line of JSON, without the newline."""
    return traffic.json_line(asdict(setup), asdict(report))
