"""The figures of growth as tables of 80 columns and a JSON line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtests import traffic
from loadtests.growth.measure import CLIENTS, Result, middle


def render(result: Result) -> RenderableType:
    """The run for a terminal."""
    return Group(_sizes(result), Text(), _mixes(result))


def _table(title: str, *headings: str) -> Table:
    table = Table(*headings, title=title, title_justify="left", box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    return table


def _sizes(result: Result) -> Table:
    table = _table(
        "More tasks: medians ± half of the range",
        *("tasks", "MB", "of them", "start s", "cold ms", "p99", "p50 ms", "p99", "per s"),
    )
    for size in result.sizes:
        table.add_row(
            f"{size.tasks:,}",
            f"{size.loaded_mb:.0f}",
            f"{size.unique_mb:.0f}",
            _spread(size.start_s, 2),
            *(f"{size.cold_p50_ms:.1f}", f"{size.cold_p99_ms:.1f}"),
            _spread(size.p50_ms, 2),
            f"{middle(size.p99_ms):.1f}",
            _spread(size.rate, 0),
        )
    table.caption = "of them: the components' bytes, each once"
    return table


def _mixes(result: Result) -> Table:
    table = _table(
        f"More components: {CLIENTS} requests under way",
        *("shared between the tasks", "tasks", "components", f"ms for {CLIENTS} answers"),
    )
    table.columns[0].justify = "left"
    for mix in result.mixes:
        table.add_row(mix.shared, str(mix.tasks), str(mix.components), _spread(mix.ms, 1))
    return table


def _spread(found: Sequence[float], digits: int) -> str:
    return f"{middle(found):.{digits}f}±{(max(found) - min(found)) / 2:.{digits}f}"


def json_line(result: Result) -> str:
    """The run as one line of JSON, without the newline."""
    numbers = asdict(result)
    return traffic.json_line(numbers.pop("setup"), numbers)
