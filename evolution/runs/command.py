"""`munet runs`: lists the runs of a store, shows one, removes one."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from model_store import StoreError

if TYPE_CHECKING:
    from evolution.runs.listing import Listed
    from model_store import ModelStore


class RunsError(Exception):
    """A command about runs failed; the message says why."""


# The readers of runs take a second to load, so commands import them when they run.
ERRORS = (RunsError, StoreError)
app = typer.Typer(add_completion=False, help=__doc__)

StoreOption = Annotated[
    str | None,
    typer.Option("--store", envvar="MUNET_STORE", help="Directory or URL of the store."),
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Name of the run, as in `munet runs`.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@app.callback(invoke_without_command=True)
def runs(context: typer.Context, store: StoreOption = None, as_json: AsJson = False) -> None:
    """Lists the runs and agents of a store, also those that other processes are running."""
    context.obj = store
    if context.invoked_subcommand is not None:
        return
    from evolution.runs import listing, printing

    opened = _open(context, store)
    found = listing.listed(opened)
    if as_json:
        typer.echo(json.dumps([_as_json(run) for run in found], indent=2))
    elif not found:
        begin = f"munet evolve TASK --store {shlex.quote(opened.url)}"
        typer.echo(f"no run in {opened.url}; begin one: {begin}")
    else:
        printing.print_list(_console(), found)


@app.command()
def show(
    context: typer.Context,
    run: RunArgument,
    store: StoreOption = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write losses and learning rates to this CSV file."),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write them to this folder for TensorBoard (needs tensorboardX)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Shows a run: its tasks, its newest children, and the command that continues it."""
    from evolution.runs import curve_files, listing, printing
    from evolution.state import StateError, progress_of, saved

    opened = _open(context, store)
    try:
        found = listing.look(opened, run)
        if found.state == "unreadable":
            raise RunsError(f"run {run!r} cannot be read: {found.why}")
        document = saved(opened, run)[1]
        history = progress_of(opened, run, document).history
    except StateError as error:
        raise RunsError(str(error)) from None
    if as_json:
        typer.echo(json.dumps(_as_json(found), indent=2))
    else:
        printing.print_run(_console(), found, document, history)
    try:
        if csv is not None:
            typer.echo(
                f"wrote {curve_files.write_csv(history, csv):,} points to {csv}", err=as_json
            )
        if tensorboard is not None:
            count = curve_files.write_tensorboard(history, tensorboard)
            typer.echo(f"wrote {count:,} children to {tensorboard}", err=as_json)
    except curve_files.MissingExtra as error:
        raise RunsError(str(error)) from None


@app.command("rm")
def remove(context: typer.Context, run: RunArgument, store: StoreOption = None) -> None:
    """Removes a run's own state. Its published versions stay, and are served as before."""
    from evolution.runs import removal
    from evolution.state import StateError

    opened = _open(context, store)
    try:
        removal.remove(opened, run)
    except StateError as error:
        raise RunsError(str(error)) from None
    typer.echo(f"removed run {run}; what it has published stays")
    typer.echo(f"gc frees its space: munet store gc --store {shlex.quote(opened.url)}")


def _open(context: typer.Context, store: str | None) -> ModelStore:
    """The store given to the command or the group."""
    url = store if store is not None else context.obj
    if url is None:
        raise typer.BadParameter(
            "expected one, as --store STORE or MUNET_STORE", param_hint="store"
        )
    from model_store import ModelStore

    return ModelStore(url)


def _console() -> Console:
    return Console(emoji=False, highlight=False, markup=False)


def _as_json(run: Listed) -> dict[str, object]:
    return {**asdict(run), "progress": run.progress}
