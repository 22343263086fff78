"""`munet evolve`: grows a store's system by one's own tasks."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from evolution.growing.asked import Asked, GrowthError, budget_of

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
            help="Directory or URL of the store; made if there is none.",
        ),
    ],
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Wall time in all, as 90s, 10m or 2h; 10m unless given."),
    ] = None,
    children: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="How many to train of each task.")
    ] = None,
    baseline: Annotated[
        bool | None,
        typer.Option(
            help="Train a copy of the whole root as well, to compare; on for a store's first task.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Where an empty store starts: shipped, random:Ti/16, augreg:FILE or hf:DIRECTORY.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="0 unless given.", show_default=False)
    ] = None,
) -> None:
    """Grows the store's system by tasks, and publishes the best path of each.

    It starts from what the store serves, and chooses its settings itself. A command that was
    stopped goes on when it is given again; another --budget is taken, as the time in all.
    """
    began = time.monotonic()
    seconds = budget_of(budget)
    from evolution.growing.running import run  # takes seconds to load

    named = tuple(dict.fromkeys(tasks))
    run(Asked(named, store, seconds, children, baseline, root, seed), began)
