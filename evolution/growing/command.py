"""`munet evolve`: adds a user's own tasks to a store's system."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from evolution.growing.options import Asked, GrowthError, budget_of

ERRORS = (GrowthError,)
app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def evolve(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK…", help="Data sets, by name.")],
    store: Annotated[
        str,
        typer.Option(
            "--store",
            envvar="MUNET_STORE",
            help="Directory or URL of the store; created if missing.",
        ),
    ],
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Total wall time: 90s, 10m (default), 2h."),
    ] = None,
    children: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Children to train for each task.")
    ] = None,
    baseline: Annotated[
        bool | None,
        typer.Option(
            help="Also train a copy of the whole root, to compare (default for the first task).",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Root of an empty store: shipped, random:Ti/16, augreg:FILE or hf:DIRECTORY.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Default: 0.", show_default=False)] = None,
) -> None:
    """Adds tasks to the store's system, and publishes the best path of each.

    It starts from the paths that the store serves, and chooses the settings itself. After a stop,
    the same command continues; a new --budget counts as the total time.
    """
    began = time.monotonic()
    seconds = budget_of(budget)
    from evolution.growing.growth import run  # takes seconds to load

    named = tuple(dict.fromkeys(tasks))
    run(Asked(named, store, seconds, children, baseline, root, seed), began)
