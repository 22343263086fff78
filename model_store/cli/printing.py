"""What the commands share: options, tables, JSON."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

# In a pipe there is no width to fit into: nothing is cut, one line stays one row.
console = Console(
    emoji=False, width=None if sys.stdout.isatty() else 250, highlight=False, markup=False
)

Store = Annotated[
    str, typer.Option("--store", envvar="MUNET_STORE", help="Directory or URL of the store.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Task = Annotated[str, typer.Argument(help="Task id, such as cmaterdb/bangla.")]
Version = Annotated[
    int | None, typer.Option("--version", help="A version instead of the live one.")
]

_NUMBERS = ("size", "own", "shared", "total", "classes", "components")


def table(*headings: str) -> Table:
    """A table without lines; columns of numbers are aligned to the right."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        made.add_column(
            heading, justify="right" if heading in _NUMBERS else "left", overflow="fold"
        )
    return made


def print_json(value: object) -> None:
    """JSON for programs."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def as_text(value: Any) -> str:
    """JSON on one line, for people."""
    return json.dumps(dict(value) if hasattr(value, "keys") else value, ensure_ascii=False)
