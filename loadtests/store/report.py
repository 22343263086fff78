"""The numbers of a run of the store benchmark: tables for people, a JSON line for machines."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtests.report import commit


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was measured."""

    name: str
    values: Mapping[str, float]  # column, with its unit -> value


@dataclass(frozen=True, slots=True)
class Section:
    """Things measured side by side."""

    key: str
    title: str
    lines: tuple[Line, ...]
    note: str = ""

    def value(self, line: str, column: str) -> float:
        """One number."""
        return next(found.values[column] for found in self.lines if found.name == line)


@dataclass(frozen=True, slots=True)
class Target:
    """What the numbers are held against."""

    what: str
    found: float
    limit: float
    at_least: bool  # else at most

    @property
    def met(self) -> bool:
        """Whether it is reached in this run."""
        return self.found >= self.limit if self.at_least else self.found <= self.limit


@dataclass(frozen=True, slots=True)
class Report:
    """All numbers of one run; README.md says what each one means."""

    place: str
    setup: Mapping[str, object]
    load_average: float  # of the last minute, when the run began: other work on these cores
    sections: tuple[Section, ...]
    targets: tuple[Target, ...]

    def section(self, key: str) -> Section:
        """One of its sections."""
        return next(section for section in self.sections if section.key == key)


PER_CORE = "store, a thread per core"  # the line of a load as a gateway does it


def targets(sections: tuple[Section, ...], most_tasks: int) -> tuple[Target, ...]:
    """The store's goals, each with what this run found."""
    found = {section.key: section for section in sections}
    split, most = found["split"], f"{most_tasks} tasks"
    digest, write = (split.value(name, "s") for name in ("digest", "write and fsync"))
    return (
        *(
            Target(f"load, {way}, {who}: % of reading the same bytes", 100 * speed, 80, True)
            for way in ("cached", "cold")
            for who, line in (("one thread", "store"), ("as a gateway", PER_CORE))
            for speed in [found[way].value("read()", "s") / found[way].value(line, "s")]
        ),
        Target("publish: digesting, times as long as writing", digest / write, 1, False),
        *(
            Target(f"{what}, {most}: times that of 10", found[key].value(most, column), 2, False)
            for what, key, column in (
                ("resolve", "resolve", "this / 10 tasks"),
                ("idle poll", "poll", "idle / 10 tasks"),
                ("poll after a publish", "poll", "changed / 10 tasks"),
            )
        ),
    )


def json_line(report: Report) -> str:
    """The run as one line of JSON, without the newline."""
    host = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"finished_at": finished, "host": host, "commit": commit()}
    return json.dumps({**asdict(report), **about}, allow_nan=False)


def render(report: Report) -> RenderableType:
    """The run as tables for a terminal."""
    cores = os.cpu_count()
    parts: list[RenderableType] = [
        Text(f"{report.place}; {cores} cores, load average {report.load_average:.1f} at the start")
    ]
    for section in report.sections:
        parts += [Text(f"\n{section.title}", style="bold"), _table(section)]
        parts += [Text(section.note, style="dim")] if section.note else []
    if report.targets:
        parts += [Text("\nTargets", style="bold"), _verdict(report.targets)]
    return Group(*parts)


def _table(section: Section) -> Table:
    columns = list(dict.fromkeys(column for line in section.lines for column in line.values))
    table = Table("", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    for line in section.lines:
        cells = (_cell(line.values.get(column)) for column in columns)
        table.add_row(escape(line.name), *cells)
    return table


def _verdict(found: tuple[Target, ...]) -> Table:
    table = Table("", "found", "target", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for target in found:
        bound = f"{'at least' if target.at_least else 'at most'} {_cell(target.limit)}"
        table.add_row(target.what, _cell(target.found), bound, "met" if target.met else "MISSED")
    return table


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    size = abs(value)
    return f"{value:,.{0 if size >= 100 or value == int(value) else 1 if size >= 10 else 3}f}"
