"""Prints runs in 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evolution.population import ROOT
from evolution.runs.following import say
from evolution.runs.formats import counted, duration, share
from evolution.runs.listing import Listed
from evolution.training.curves import points

WIDTH, INDENT = 80, "    "
NEWEST = 8  # children to show
STATE_WIDTH = len("unreadable")


def print_list(console: Console, runs: Sequence[Listed]) -> None:
    """Prints name, state and progress; below why it failed, and the command that continues it.

    Only a command may be wider than the page, since it is to be copied.
    """
    width = max(len(run.name) for run in runs)
    for run in runs:
        line, told = f"{run.name:{width}}  {run.state:{STATE_WIDTH}}".rstrip(), summary(run)
        if told and width + STATE_WIDTH + 4 + len(told) <= WIDTH:
            line, told = f"{run.name:{width}}  {run.state:{STATE_WIDTH}}  {told}", ""
        below = [_shortened(run.why, WIDTH - len(INDENT)), run.command]
        say(console, line)
        for part in filter(None, [told, *below]):
            say(console, f"{INDENT}{part}")


def _shortened(text: str, width: int) -> str:
    """The first line of a text, shortened."""
    line = text.partition("\n")[0]
    return line if len(line) <= width else f"{line[: width - 1]}…"


def summary(run: Listed) -> str:
    """The progress in one line; empty if unknown."""
    if run.state == "unreadable":
        return ""
    if run.state == "imported":
        return counted(run.tasks or 0, "task")
    if run.state == "finished" and (run.tasks or 0) > 1:
        return counted(run.tasks or 0, "task iteration")
    parts = [run.task if run.state == "finished" else f"{run.task}, {run.progress}"]
    if run.best is not None:
        parts.append(f"best {share(run.best)}")
    if run.left_s:
        parts.append(f"{duration(run.left_s)} left")
    return ", ".join(parts)


def print_run(
    console: Console, run: Listed, document: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> None:
    """Prints all about one run."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("run", Text(run.name))
    facts.add_row("state", Text(f"{run.state}{f' by {run.holder}' if run.holder else ''}"))
    if run.why:
        facts.add_row("why", Text(run.why))
    facts.add_row("experiment", Text(f"{document['experiment']}, seed {document['seed']}"))
    if run.state not in ("finished", "imported"):
        facts.add_row("progress", Text(summary(run)))
    if run.command:
        facts.add_row("go on with", Text(run.command))
    console.print(facts)
    for table in (_tasks(document, history), _children(history)):
        if table.row_count:
            console.print()
            console.print(table)


def _tasks(document: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("task", "children", "validation", "test", "ECE")
    own = document.get("agent")
    rows = [
        path
        for path in document["paths"]
        if path["owner"] != ROOT and (not own or path["owner"].startswith(own))
    ]
    for task in dict.fromkeys([*(row["task"] for row in history), *(r["task"] for r in rows)]):
        paths = [path for path in rows if path["task"] == task and path["quality"] is not None]
        best = max(paths, key=lambda path: path["quality"], default=None)
        table.add_row(
            Text(task),
            str(sum(row["task"] == task for row in history)),
            _share(best and best["quality"]),
            _share(best and best["metrics"].get("test_quality")),
            _calibration(best["metrics"] if best else {}),
        )
    return table


def _calibration(metrics: Mapping[str, Any]) -> str:
    """The expected calibration error on the test split, without and with the temperature."""
    found = metrics.get("calibration")
    return f"{found['ece_before']:.3f} to {found['ece_after']:.3f}" if found else "-"


def _children(history: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("newest children", "task", "validation", "kept", "loss", "took")
    for row in history[-NEWEST:]:
        losses = [f"{p.loss:.3g}" for p in points(row.get("training")) if p.loss is not None]
        table.add_row(
            str(row["id"]),
            Text(row["task"]),
            _share(row.get("quality")),
            "diverged" if row.get("diverged") else "yes" if row.get("improved") else "no",
            " to ".join([losses[0], losses[-1]]) if losses else "-",
            "-" if row.get("seconds") is None else duration(row["seconds"]),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.no_wrap = True
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else share(value)
