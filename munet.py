"""`munet`: the one command. It mounts the command groups of the packages; nothing else.

A group is imported when one of its commands is asked for, so that help and mistakes cost nothing.
A module of commands has `app` (Typer) and, if it wants, ERRORS: what its commands raise for a
user to read. Such an error ends as a message of at most five lines and exit code 1. On a terminal a
message is broken between words; nothing in it, such as the name of a file, tells the terminal to do
anything. COMMANDS.md lists the commands and the exit codes.
"""

from __future__ import annotations

import errno
import os
import sys
import textwrap
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

OWN, STORED, SERVED, RESEARCH = "Your own tasks", "What is published", "Serving", "Research"
# Name -> module of its commands, what it is for, and the part of the help that it stands in.
COMMANDS = {
    "demo": ("demo", "Shows it all on three small tasks that come with it.", OWN),
    "data": ("evolution.data.command", "Brings your own pictures in, and checks them.", OWN),
    "evolve": ("evolution.growing.command", "Grows the system of a store by your tasks.", OWN),
    "runs": ("evolution.runs.command", "Lists runs: how far each is, and how it goes on.", OWN),
    "adopt": ("evolution.adopting.command", "Makes a fine-tuned ViT of others a task.", OWN),
    "export": ("evolution.adopting.export_command", "Writes a task as a Hub folder.", OWN),
    "store": ("model_store.cli.app", "Looks at stores, looks after them, and copies them.", STORED),
    "placement": ("model_store.cli.placement", "Says which gateway serves which task.", STORED),
    "serve": ("service.host.command", "Serves every task of a store over HTTP.", SERVED),
    "classify": ("service.bulk.command", "Asks about pictures, a few or very many.", SERVED),
    "tasks": ("service.client.tasks_command", "Lists the tasks of a running gateway.", SERVED),
    "token": ("service.access.command", "Makes tokens for a gateway.", SERVED),
    "experiments": ("evolution.__main__", "Runs and compares the systems of the papers.", RESEARCH),
    "loadtest": ("loadtests.command", "Puts load on a gateway, and measures it.", RESEARCH),
}
EXTRA = "munet-gateway[train]"  # all that serving does not need
PACKAGES = ("demo", "evolution", "loadtests", "model_store", "munet", "service", "vit")
LONGEST_MESSAGE = 5  # lines
WIDEST_MESSAGE = 100  # characters, on a terminal
# What to do about an error of the system.
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, then give the same command again"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM), "name another place, or get the right to this one"
    ),
    errno.EROFS: "name a place that can be written to",
    errno.ENOENT: "correct the name",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class Munet(TyperGroup):
    """The commands of COMMANDS, in that order; each is loaded when it is to run."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {
            name: TyperCommand(name, help=help, rich_help_panel=panel)
            for name, (_, help, panel) in COMMANDS.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """The command that the first word names, loaded, and the words that are left."""
        name, known, rest = super().resolve_command(ctx, args)
        if name is None or known is None:  # only while a shell asks how a line may go on
            return name, known, rest
        return name, typer.main.get_command(import_module(COMMANDS[name][0]).app), rest


app = typer.Typer(
    cls=Munet,
    no_args_is_help=True,
    help="Grows one vision system that solves many tasks, and serves them.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from service import VERSION

        typer.echo(f"munet {VERSION}")
        raise typer.Exit


@app.callback()
def munet(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Says which it is."),
    ] = False,
) -> None:
    """Nothing is common to all commands."""


def main() -> None:
    """Runs the command line; a known error is a message and its exit code."""
    # Before NumPy is loaded. Its matrices are small here: heads that are fitted. While other work
    # runs on the same cores, its threads waited for each other for 1.2 s where one takes 0.05 s.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        app(prog_name="munet")
    except Exception as error:
        if not (isinstance(error, known_errors()) or lacks_library(error)):
            raise
        _show(message_of(error))
        raise SystemExit(1) from None


def _show(lines: list[str]) -> None:
    console = Console(
        emoji=False, stderr=True, style="red", highlight=False, markup=False, soft_wrap=True
    )
    if console.is_terminal:
        width = min(console.width, WIDEST_MESSAGE)
        lines = [
            textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
            for line in lines
        ]
    console.print("\n".join(lines))


def message_of(error: Exception) -> list[str]:
    """Its lines, as a user reads them."""
    told = str(error)
    if isinstance(error, ModuleNotFoundError):
        told = f"this command needs {error.name}, which is not installed\ninstall {EXTRA}"
    if isinstance(error, OSError) and error.errno and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        remedy = REMEDIES.get(error.errno)
        told = f"{where}{error.strerror}{f'; {remedy}' if remedy else ''}"
    lines = f"error: {told}".splitlines()[:LONGEST_MESSAGE]
    return ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines]


def lacks_library(error: Exception) -> bool:
    """Whether a library of others is not installed: one of an extra."""
    missing = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return missing not in ("", *PACKAGES)


def known_errors() -> tuple[type[Exception], ...]:
    """Those of the modules that were loaded."""
    loaded = [sys.modules.get(module) for module, *_ in COMMANDS.values()]
    theirs: list[type[Exception]] = [e for module in loaded for e in getattr(module, "ERRORS", ())]
    return (OSError, *theirs)


if __name__ == "__main__":
    main()
