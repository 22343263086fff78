"""`munet tasks`: what a running gateway serves."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from service.client.client import Client
from service.client.errors import ClientError
from service.client.retries import Retries

ERRORS = (ClientError,)
URL = "http://127.0.0.1:3000"
ASKED_BY_A_PERSON = Retries(unreached=False)  # who is told at once that no gateway runs
TOKEN = "MUNET_TOKEN"  # the variable that holds it: on the command line all users would see it
app = typer.Typer(add_completion=False)


@app.command(epilog=f"Where a gateway wants a token, it is taken from the variable {TOKEN}.")
def tasks(
    url: Annotated[str, typer.Option(metavar="URL", help="Where the gateway is.")] = URL,
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


def client_at(url: str, retries: Retries = ASKED_BY_A_PERSON) -> Client:
    """A client with the token of the environment. Raises BadParameter."""
    try:
        return Client(url, os.environ.get(TOKEN, "").strip(), retries=retries)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def one_line(text: str) -> str:
    """With what would break a line, or tell a terminal to do something, made visible."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
