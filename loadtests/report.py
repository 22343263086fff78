"""Turns the outcomes of a run into numbers, tables for people and a JSON line for machines."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtests import exposition
from loadtests.exposition import Histogram
from loadtests.workload import Load

# What a request can come to, besides an HTTP status of failure.
OK = "200"  # answered, and with a prediction for the task that was asked for
TIMEOUT = "timeout"  # no complete answer within Load.timeout_s
CONNECTION = "connection"  # refused, reset or cut off
INVALID = "invalid_answer"  # status 200 with a body that is not a prediction for the task
NOT_SENT = "not_sent"  # too many requests in flight, or the client is hopelessly late

STAGES = ("receive", "decode", "load", "queue", "execute", "answer", "total")
TOP_TASKS = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    task: str
    status: str  # an HTTP status, or one of the words above
    latency_s: float  # from its scheduled time to the last byte of the answer
    lag_s: float  # how much later than scheduled this client sent it


@dataclass(frozen=True, slots=True)
class Setup:
    """What was really sent."""

    load: Load
    tasks: tuple[str, ...]  # in order of popularity
    image_count: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the scheduled time to the whole answer; only answers with status 200."""

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class TaskLine:
    """The requests of one task."""

    task: str
    count: int
    ok: int
    latency: Latency | None  # None where nothing was answered


@dataclass(frozen=True, slots=True)
class Distribution:
    """What one of the server's histograms saw during the run."""

    count: int
    mean: float | None  # None where count is 0
    p50: float | None  # interpolated inside a bucket: as exact as the buckets are narrow
    p95: float | None


@dataclass(frozen=True, slots=True)
class ServerSide:
    """The server's own figures over the run, from its metrics; None where it has no such metric."""

    stages_s: dict[str, Distribution]  # seconds spent in each stage
    batch_rows: Distribution | None
    batch_tasks: Distribution | None  # distinct tasks in a batch
    padded_rows: float | None
    rows_shared: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """The numbers of one run; README.md says what each one means."""

    setup: Setup
    count: int
    ok: int
    errors: dict[str, int]  # status -> requests, most frequent first
    latency: Latency | None
    offered_rate: float  # requests scheduled per second
    achieved_rate: float  # answers with status 200 per second, until the last request ended
    goodput: float  # answers with status 200 within the deadline, per second of the schedule
    client_lag_p99_ms: float  # how late this client itself sent
    tasks: list[TaskLine]  # the most requested ones
    server: ServerSide | None  # None where its metrics could not be read or compared


def summarise(
    setup: Setup, outcomes: Sequence[Outcome], wall_s: float, server: ServerSide | None
) -> Result:
    """All numbers of a run whose last request ended after `wall_s` seconds."""
    load = setup.load
    answered = [outcome for outcome in outcomes if outcome.status == OK]
    in_time = sum(outcome.latency_s * 1000 <= load.deadline_ms for outcome in answered)
    errors = Counter(outcome.status for outcome in outcomes if outcome.status != OK)
    lags_s = [outcome.lag_s for outcome in outcomes]
    return Result(
        setup=setup,
        count=len(outcomes),
        ok=len(answered),
        errors=dict(errors.most_common()),
        latency=latency(answered),
        offered_rate=len(outcomes) / load.seconds,
        achieved_rate=len(answered) / wall_s,
        goodput=in_time / load.seconds,
        client_lag_p99_ms=float(np.percentile(lags_s, 99)) * 1000,
        tasks=_task_lines(outcomes),
        server=server,
    )


def latency(answered: Sequence[Outcome]) -> Latency | None:
    """Percentiles, interpolated linearly between neighbours; None for no outcome."""
    if not answered:
        return None
    latencies_ms = [outcome.latency_s * 1000 for outcome in answered]
    return Latency(*np.percentile(latencies_ms, [50, 90, 95, 99, 100]).tolist())


def _task_lines(outcomes: Sequence[Outcome]) -> list[TaskLine]:
    top = Counter(outcome.task for outcome in outcomes).most_common(TOP_TASKS)
    lines = []
    for task, count in top:
        answered = [one for one in outcomes if one.task == task and one.status == OK]
        lines.append(TaskLine(task, count, len(answered), latency(answered)))
    return lines


def server_side(before: exposition.Samples, after: exposition.Samples) -> ServerSide:
    """What the server's metrics say happened between two readings. Raises ExpositionError."""

    def seen(name: str, *, whole: bool = False, **labels: str) -> Distribution | None:
        histogram = exposition.histogram_increase(before, after, name, labels)
        return None if histogram is None else _distribution(histogram, whole)

    stages = {
        stage: seen("munet_stage_duration_seconds", stage=stage, outcome="answered")
        for stage in STAGES
    }
    return ServerSide(
        stages_s={stage: found for stage, found in stages.items() if found is not None},
        batch_rows=seen("munet_batch_rows", whole=True),
        batch_tasks=seen("munet_batch_tasks", whole=True),
        padded_rows=exposition.counter_increase(before, after, "munet_batch_padded_rows_total"),
        rows_shared=exposition.counter_increase(before, after, "munet_rows_shared_total"),
    )


def _distribution(histogram: Histogram, whole: bool) -> Distribution:
    """`whole` says that whole numbers were observed: then the quantiles are such too."""
    values = histogram.mean, histogram.quantile(0.5), histogram.quantile(0.95)
    # JSON has no NaN.
    mean, p50, p95 = (None if math.isnan(value) else value for value in values)
    if whole and p50 is not None and p95 is not None:
        p50, p95 = math.ceil(p50), math.ceil(p95)
    return Distribution(round(histogram.count), mean, p50, p95)


def json_line(result: Result) -> str:
    """The run as one line of JSON, without the newline: {"setup": {...}, "result": {...}}."""
    load = result.setup.load
    setup = {
        **asdict(load),
        "popularity": str(load.popularity),
        "tasks": result.setup.tasks,
        "images": str(load.images) if load.images else "synthetic",
        "image_count": result.setup.image_count,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": {
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "commit": commit(),
    }
    numbers = asdict(result)
    del numbers["setup"]
    return json.dumps({"setup": setup, "result": numbers}, allow_nan=False)


def commit() -> str | None:
    """Commit of the checkout this file lies in; None outside of one or without git."""
    command = ["git", "rev-parse", "--verify", "HEAD"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def render(result: Result) -> RenderableType:
    """The run as tables for a terminal."""
    parts: list[RenderableType] = [_headline(result), _latencies(result)]
    if result.server is None:
        parts.append(Text("The server's own figures could not be read from /metrics."))
    else:
        parts += [_stages(result.server), _batches(result.server)]
    return Group(*parts)


def _headline(result: Result) -> Table:
    load = result.setup.load
    failed = ", ".join(f"{status}: {count}" for status, count in result.errors.items())
    table = Table(title="The run", show_header=False)
    table.add_row("load", f"{load.rate:g} requests/s for {load.seconds:g} s")
    table.add_row("popularity", f"{load.popularity} over {len(result.setup.tasks)} tasks")
    table.add_row("requests", f"{result.count} ({result.offered_rate:.1f}/s)")
    table.add_row("answered 200", f"{result.ok} ({result.achieved_rate:.1f}/s)")
    table.add_row("errors", f"[red]{failed}[/red]" if failed else "none")
    table.add_row(f"goodput (within {load.deadline_ms:g} ms)", f"{result.goodput:.1f}/s")
    table.add_row("client's own lag, p99", f"{result.client_lag_p99_ms:.1f} ms")
    return table


def _latencies(result: Result) -> Table:
    columns = ("p50", "p90", "p95", "p99", "max")
    table = Table("task", "requests", "200", *columns, title="Latency seen by the client, ms")
    everything = TaskLine("all", result.count, result.ok, result.latency)
    for line in (everything, *result.tasks):
        values = asdict(line.latency).values() if line.latency else (None,) * len(columns)
        cells = (_cell(value) for value in values)
        counts = str(line.count), str(line.ok)
        table.add_row(escape(line.task), *counts, *cells, end_section=line is everything)
    return table


def _stages(server: ServerSide) -> Table:
    table = Table("stage", "count", "mean", "p50", "p95", title="Time inside the server, ms")
    for stage, seen in server.stages_s.items():
        cells = (_cell(value, scale=1000) for value in (seen.mean, seen.p50, seen.p95))
        table.add_row(stage, str(seen.count), *cells)
    return table


def _batches(server: ServerSide) -> Table:
    table = Table("batches", "count", "mean", "p50", "p95", title="Batches inside the server")
    for name, seen in (("rows", server.batch_rows), ("distinct tasks", server.batch_tasks)):
        if seen is not None:
            cells = (_cell(value) for value in (seen.mean, seen.p50, seen.p95))
            table.add_row(name, str(seen.count), *cells)
    for name, rows in (("padded", server.padded_rows), ("shared", server.rows_shared)):
        if rows is not None:
            table.add_row(f"{name} rows", f"{rows:.0f}")
    return table


def _cell(value: float | None, *, scale: float = 1.0) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value * scale:.1f}"
