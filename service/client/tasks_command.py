"""`munet tasks`: what a running gateway serves."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from service.client.command import TOKEN, UrlOption, client_at, one_line
from service.client.errors import ClientError

ERRORS = (ClientError,)
app = typer.Typer(add_completion=False)


@app.command(epilog=f"Where a gateway wants a token, it is taken from the variable {TOKEN}.")
def tasks(
    url: UrlOption = "http://127.0.0.1:3000",
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Lists the tasks of a running gateway: state, version, classes and size."""
    with client_at(url) as client:
        found = [task.more for task in client.tasks()]
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif not found:
        typer.echo(f"the gateway at {url} serves no task yet")
    else:  # in a pipe there is no width to fit into
        console = Console(
            emoji=False,
            width=None if sys.stdout.isatty() else 250,
            highlight=False,
            markup=False,
        )
        console.print(_table(found))


def _table(tasks: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("task", "state", "version", "classes", "size", "of its own", "why"):
        is_number = heading in ("version", "classes", "size", "of its own")
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for task in tasks:
        sizes = task.get("bytes") or {}
        table.add_row(
            one_line(str(task.get("id"))),
            str(task.get("state")),
            f"v{task['version']}" if task.get("version") else "-",
            str(task.get("classes", "-")),
            decimal(sizes["total"]) if sizes else "-",
            decimal(sizes["own"]) if sizes else "-",
            one_line(str(task.get("reason", ""))),
        )
    return table
