"""`munet token new NAME`: makes a token."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Annotated

import typer

from service.access.grants import ANONYMOUS
from service.access.token_file import NAME

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def main() -> None:
    """Makes tokens for the gateway."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    classify: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of tasks, or a private task's name. Repeatable."),
    ] = None,
    read: Annotated[bool, typer.Option("--read", help="May list tasks.")] = False,
    admin: Annotated[
        bool, typer.Option("--admin", help="May load and unload tasks, set log levels, see dumps.")
    ] = False,
) -> None:
    """Prints a new token (on stderr) and its entry for the file (on stdout, to be appended)."""
    if not NAME.fullmatch(name) or name == ANONYMOUS:
        raise typer.BadParameter(f"expected up to 64 of A-Z a-z 0-9 . _ -, found {name!r}")
    token = "munet_" + secrets.token_urlsafe(32)
    typer.echo(f"token, shown only now: {token}", err=True)
    typer.echo(
        f"[[token]]\nname = {json.dumps(name)}\n"
        f"sha256 = {json.dumps(hashlib.sha256(token.encode()).hexdigest())}\n"
        f"classify = {json.dumps(classify or [])}\n"
        f"read = {json.dumps(read)}\nadmin = {json.dumps(admin)}"
    )
