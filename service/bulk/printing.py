"""Answers to a few images, on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.bulk.answering import Answered
from service.client import Answer
from service.client.tasks_command import one_line


def print_answers(answered: Sequence[Answered], as_json: bool) -> None:
    """A table of all, and a line for each error; or JSON."""
    several = any(len(answers) > 1 for _, answers in answered)
    if as_json:
        found = [_json(name, answer) for name, answers in answered for answer in answers]
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("image", *(["task"] if several else []), "label", "probability"):
        table.add_column(heading, overflow="fold")
    table.columns[-1].justify = "right"
    for name, answers in answered:
        _add(table, name, answers, several)
    if table.rows:  # in a pipe there is no width to fit into
        Console(emoji=False, width=None if sys.stdout.isatty() else 250).print(table)


def _add(table: Table, name: str, answers: Sequence[Answer], several: bool) -> None:
    if answers and all(answer.error == answers[0].error for answer in answers):
        answers = answers[:1] if answers[0].error else answers
    shown = one_line(name)
    for answer in answers:
        if answer.error is not None:
            _errors().print(f"error: {one_line(name)}: {answer.error}")
            continue
        task = one_line(answer.task)
        for one in answer.predictions:
            cells = [Text(shown), *([Text(task)] if several else []), Text(one_line(one.label))]
            table.add_row(*cells, f"{one.probability:.3f}")
            shown = task = ""


def _errors() -> Console:
    return Console(
        emoji=False, stderr=True, style="red", highlight=False, markup=False, soft_wrap=True
    )


def _json(name: str, answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {"image": name, "task": answer.task}
    if answer.error is not None:
        return {**found, "error": str(answer.error)}
    listed = [asdict(one) for one in answer.predictions]
    return {**found, "version": answer.version, "predictions": listed}
