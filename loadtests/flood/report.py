"""The result as a table for people and as a JSON line for machines."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from loadtests.flood.measure import Light, Result
from loadtests.report import commit


def json_line(result: Result) -> str:
    """The run as one line of JSON, without the newline."""
    host = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"finished_at": finished, "host": host, "commit": commit()}
    return json.dumps({**asdict(result), **about}, allow_nan=False)


def render(result: Result) -> RenderableType:
    """Two tables: all tasks alike, and a light task next to a flood."""
    return Group(_loads(result), _light(result))


def _loads(result: Result) -> Table:
    setup = result.setup
    table = Table(
        *("offered", "capacity/s", "goodput/s", "of capacity", "accepted", "in time"),
        *("answer ms", "refusal ms", "no Retry-After", "client cores"),
        title=f"{setup.tasks} tasks of {setup.size} at {setup.image_size} pixels, deadline "
        f"{setup.deadline_ms} ms, {os.cpu_count()} cores; p50/p99",
        box=box.SIMPLE_HEAD,
    )
    for load in result.loads:
        table.add_row(
            f"{load.factor:g}x, {load.offered:.0f}/s",
            f"{load.capacity:.1f}",
            f"{load.goodput:.1f}",
            f"{load.goodput / load.capacity:.2f}",
            f"{load.accepted}",
            f"{load.in_time / max(1, load.accepted):.1%}",
            f"{load.answer_p50_ms:.0f}/{load.answer_p99_ms:.0f}",
            "-"
            if load.refusal_p50_ms is None
            else f"{load.refusal_p50_ms:.1f}/{load.refusal_p99_ms:.1f}",
            f"{load.without_retry_after}",
            f"{load.client_cores:.2f}",
        )
    return table


def _light(result: Result) -> Table:
    table = Table(
        *("a task asked now and then", "sent", "in time", "p50 ms", "p99 ms"),
        box=box.SIMPLE_HEAD,
    )

    def row(name: str, light: Light) -> None:
        counts = str(light.sent), str(light.answered)
        table.add_row(name, *counts, f"{light.p50_ms:.1f}", f"{light.p99_ms:.1f}")

    row("alone", result.alone)
    row(f"next to another's {result.flood_rate:.0f} requests/s", result.with_flood)
    table.add_row(
        "ratio",
        "",
        "",
        f"{result.with_flood.p50_ms / max(1e-9, result.alone.p50_ms):.2f}",
        f"{result.with_flood.p99_ms / max(1e-9, result.alone.p99_ms):.2f}",
    )
    return table
