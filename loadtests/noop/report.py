"""The numbers of a run of the no-op benchmark: tables for people, a JSON line for machines."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtests.noop.variants import BARE, OURS
from loadtests.report import commit

MOST_MS = 1.0  # outside decode and compute, one request at a time
LEAST_RATIO = 0.7  # of bare Starlette's requests per second


@dataclass(frozen=True, slots=True)
class Cost:
    """One server at one number of connections; of one round, or the median of all."""

    name: str
    connections: int
    rate: float  # answers per second
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of all its processes, per answer


@dataclass(frozen=True, slots=True)
class Outside:
    """One request at a time through the real engine: medians."""

    requests: int
    latency_ms: float  # seen by the client
    decode_ms: float
    execute_ms: float
    client_ms: float  # latency without decode and execute
    server_ms: float  # the gateway's own total without decode and execute


@dataclass(frozen=True, slots=True)
class Report:
    """All numbers of one run; README.md says what each one means."""

    rounds: int
    seconds: float
    image_bytes: int
    costs: Sequence[Cost]  # of each round
    missing: Sequence[str]  # servers that are not installed
    outside: Outside

    def of(self, name: str, connections: int) -> Sequence[Cost]:
        """One server's rounds."""
        return [c for c in self.costs if (c.name, c.connections) == (name, connections)]

    def median(self, name: str, connections: int) -> Cost:
        """Of the rounds, each number by itself."""
        rounds = self.of(name, connections)
        fields = ("rate", "p50_ms", "p99_ms", "cpu_us")
        return Cost(name, connections, *(median(getattr(c, f) for c in rounds) for f in fields))

    def ratio(self, name: str, connections: int) -> float:
        """Of its rate to bare Starlette's, the median over rounds."""
        pairs = zip(self.of(name, connections), self.of(BARE, connections), strict=True)
        return median(one.rate / bare.rate for one, bare in pairs)

    @property
    def names(self) -> Sequence[str]:
        """Of the servers that ran."""
        return list(dict.fromkeys(cost.name for cost in self.costs))

    @property
    def connections(self) -> Sequence[int]:
        """How many there were."""
        return list(dict.fromkeys(cost.connections for cost in self.costs))


def render(report: Report) -> RenderableType:
    """The run as tables for a terminal."""
    notes = [f"{name} did not run: it is not installed (make peers)" for name in report.missing]
    return Group(_costs(report), _outside(report.outside), _targets(report), *map(Text, notes))


def _costs(report: Report) -> Table:
    table = Table(
        *("server", "connections", "requests/s", "of Starlette", "p50 ms", "p99 ms", "CPU µs"),
        title=f"A no-op for {report.image_bytes} bytes: medians of {report.rounds} rounds",
    )
    for connections in report.connections:
        for name in report.names:
            cost = report.median(name, connections)
            table.add_row(
                *(name, str(connections), f"{cost.rate:.0f}"),
                f"{report.ratio(name, connections):.2f}",
                *(f"{cost.p50_ms:.2f}", f"{cost.p99_ms:.2f}", f"{cost.cpu_us:.0f}"),
                end_section=name == report.names[-1],
            )
    return table


def _outside(outside: Outside) -> Table:
    table = Table(
        *("latency", "decode", "execute", "outside both, client", "outside both, server"),
        title=f"The real engine, one request at a time: medians of {outside.requests}, ms",
    )
    times = (outside.latency_ms, outside.decode_ms, outside.execute_ms)
    table.add_row(*(f"{ms:.2f}" for ms in (*times, outside.client_ms, outside.server_ms)))
    return table


def _targets(report: Report) -> Table:
    table = Table("target", "found", "limit", "met", title="Targets")
    found = report.outside.client_ms
    _add(table, "outside decode and execute, ms", found, "at most", MOST_MS, found <= MOST_MS)
    for connections in report.connections:
        found = report.ratio(OURS, connections)
        what = f"requests/s of Starlette's, {connections} connections"
        _add(table, what, found, "at least", LEAST_RATIO, found >= LEAST_RATIO)
    return table


def _add(table: Table, what: str, found: float, side: str, limit: float, met: bool) -> None:
    table.add_row(what, f"{found:.2f}", f"{side} {limit:g}", "yes" if met else "[red]no[/red]")


def json_line(report: Report) -> str:
    """The run as one line of JSON, without the newline."""
    machine = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    about = {
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "host": machine,
    }
    return json.dumps({"about": about, "noop": asdict(report)}, allow_nan=False)
