"""The cells as tables of 80 columns, ours next to theirs; and a JSON line for machines."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtests import traffic
from loadtests.peers.goals import goals, ratios
from loadtests.peers.measure import Result
from loadtests.peers.plan import CELLS, OURS, SETS, TaskSet


def _few(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(title: str, *headings: str) -> Table:
    table = Table(*headings, title=title, title_justify="left", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    return table


# What a cell of each kind shows: the figure, its heading, and whether its ratio is shown as well.
COLUMNS = {
    "closed": (("rate", "per s", True), ("p50_ms", "p50 ms", True), ("p99_ms", "p99 ms", True)),
    "open": (("p50_ms", "p50 ms", True), ("p99_ms", "p99 ms", True)),
    "alone": (
        ("first_ms", "start ms", True),
        ("cold_p50_ms", "cold ms", True),
        ("cold_p99_ms", "p99", False),
        ("warm_p50_ms", "warm ms", False),
        ("pss_mb", "MB", True),
    ),
    "added": (
        ("answer_ms", "answer ms", True),
        ("before_p99_ms", "others' p99 ms", False),
        ("longest_ms", "longest ms", True),
    ),
}
_RATIOS = "Ratios are ours to theirs, round by round: median ± half of their range."
MOST_ASKED = ("most_asked", "most asked", False)
PROCESSOR = ("cpu_ms", "cpu ms", False)  # of one request, in all processes of the server


def render(result: Result) -> RenderableType:
    """The run for a terminal."""
    cells = [name for name in CELLS if any(r.cell == name for r in result.rounds)]
    parts: list[RenderableType] = [Text(_RATIOS)]
    for tasks in SETS.values():
        if tasks.name in result.unique_bytes:
            parts += [Text(_tasks(result, tasks)), Text()]
            for cell in cells:
                if CELLS[cell].tasks == tasks.name:
                    parts += [_cell(result, cell), Text()]
    parts += [_goals(result), Text()]
    notes = [*dict.fromkeys(result.notes), *_failures(result)]
    return Group(*parts, *map(Text, notes))


def _failures(result: Result) -> Iterator[str]:
    for cell, server in dict.fromkeys((r.cell, r.server) for r in result.rounds):
        failed, wrong = result.failed(cell, server)
        if failed or wrong:
            yield f"{server} in {cell}: {failed} requests failed, {wrong} answers were wrong"


def _tasks(result: Result, tasks: TaskSet) -> str:
    count, size = tasks.tasks(result.setup.tasks), result.unique_bytes[tasks.name] / 1e6
    return f"{count} tasks at {tasks.pixels} px, {tasks.title}: {size:.0f} MB"


def _cell(result: Result, cell: str) -> Table:
    what = CELLS[cell]
    columns = COLUMNS[what.kind]
    if what.kind == "closed":
        columns += (MOST_ASKED if what.exponent else PROCESSOR,)
    headings = [h for _, name, ratio in columns for h in ((name, "ratio") if ratio else (name,))]
    table = _table(f"{cell}: {what.title}", "server", *headings)
    for column in table.columns[1:]:
        column.justify = "right"
    for server in dict.fromkeys(r.server for r in result.rounds if r.cell == cell):
        table.add_row(server, *_row(result, cell, server, columns))
    return table


def _row(
    result: Result, cell: str, server: str, columns: Sequence[tuple[str, str, bool]]
) -> Iterator[str]:
    rounds = result.of(cell, server)
    if any(result.failed(cell, server)):
        yield "[red]failed[/red]"
        return
    for figure, _, has_ratio in columns:
        found = [r.figures[figure] for r in rounds if figure in r.figures]
        yield _few(statistics.median(found)) if found else "-"
        if has_ratio:
            yield _ratio(result, cell, server, figure)


def _ratio(result: Result, cell: str, server: str, figure: str) -> str:
    """The median, and half of what lies between the least and the most."""
    found = ratios(result, cell, server, figure)
    if not found or server == OURS:
        return ""
    spread = f"±{_few((max(found) - min(found)) / 2)}" if len(found) > 1 else ""
    return f"[bold]{_few(statistics.median(found))}[/bold]{spread}"


def _goals(result: Result) -> Table:
    table = _table("Goals", "goal", "found", "limit", "met")
    for goal in goals(result):
        limit = f"at {'least' if goal.at_least else 'most'} {_few(goal.limit)}"
        table.add_row(goal.what, _few(goal.found), limit, "yes" if goal.met else "[red]no[/red]")
    return table


def json_line(result: Result) -> str:
    """The run as one line of JSON, without the newline."""
    numbers = asdict(result)
    return traffic.json_line(numbers.pop("setup"), numbers)
