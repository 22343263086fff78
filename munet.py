"""`munet`: the one command. It mounts the command groups of the packages; nothing else.

A group is imported when one of its commands is asked for, so that help and mistakes cost nothing.
A module of commands has `app` (Typer) and, if it wants, ERRORS: what its commands raise for a
user to read, which ends as a message of at most five lines and exit code 1. On a terminal these are
broken between words; nothing in them, such as the name of a file, tells the terminal to do
anything.
"""

from __future__ import annotations

import errno
import sys
import textwrap
from importlib import import_module
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

# Name -> module of its commands, and what it is for; in the order of use.
COMMANDS = {
    "data": ("evolution.data.command", "Brings your own pictures in, and checks them."),
    "evolve": ("evolution.growing.command", "Grows the system of a store by your tasks."),
    "runs": ("evolution.runs.command", "Lists runs: how far each is, and what goes on with it."),
    "adopt": ("evolution.adopting.command", "Makes a fine-tuned ViT of others a task."),
    "export": ("evolution.adopting.export_command", "Writes a task as a Hugging Face folder."),
    "store": ("model_store.__main__", "Looks at, looks after and exchanges what was published."),
    "placement": ("model_store.cli.placement", "Says which of several gateways serves which task."),
    "serve": ("service.host.command", "Serves every task of a store over HTTP."),
    "classify": ("service.client.command", "Asks a running gateway about pictures."),
}
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


class Deferred(TyperCommand):
    """A command, or a group of commands, whose module is imported when it runs."""

    def __init__(self, name: str, module: str, help: str) -> None:
        super().__init__(name, help=help)
        self._module = module

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ):
        """That of the command itself, once it is loaded."""
        loaded = typer.main.get_command(import_module(self._module).app)
        return loaded.make_context(info_name, args, parent=parent, **extra)


class Munet(TyperGroup):
    """The commands of COMMANDS, in that order, not loaded yet."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: Deferred(name, *where) for name, where in COMMANDS.items()}


app = typer.Typer(
    cls=Munet,
    no_args_is_help=True,
    add_completion=False,
    help="Grows one vision system that solves many tasks, and serves them.",
)


@app.callback()
def munet() -> None:
    """Nothing is common to all commands."""


def main() -> None:
    """Runs the command line; a known error is a message and exit code 1."""
    try:
        app(prog_name="munet")
    except Exception as error:
        if not isinstance(error, known_errors()):
            raise
        console = Console(
            emoji=False, stderr=True, style="red", highlight=False, markup=False, soft_wrap=True
        )
        lines = message_of(error)
        if console.is_terminal:
            width = min(console.width, WIDEST_MESSAGE)
            lines = [
                textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
                for line in lines
            ]
        console.print("\n".join(lines))
        raise SystemExit(1) from None


def message_of(error: Exception) -> list[str]:
    """Its lines, as a user reads them."""
    told = str(error)
    if isinstance(error, OSError) and error.errno and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        remedy = REMEDIES.get(error.errno)
        told = f"{where}{error.strerror}{f'; {remedy}' if remedy else ''}"
    lines = f"error: {told}".splitlines()[:LONGEST_MESSAGE]
    return ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines]


def known_errors() -> tuple[type[Exception], ...]:
    """Those of the modules that were loaded."""
    loaded = [sys.modules.get(module) for module, _ in COMMANDS.values()]
    return (OSError, *(error for module in loaded for error in getattr(module, "ERRORS", ())))


if __name__ == "__main__":
    main()
