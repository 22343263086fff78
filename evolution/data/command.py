"""`munet data`: brings a user's own pictures in, and looks after them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from evolution.data.errors import DataError

if TYPE_CHECKING:
    from evolution.data.places import Place
    from evolution.data.stored import Card

# What reads pictures takes seconds to load: commands import it when they run, not for their help.
ERRORS = (DataError,)
app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The set's name, and its task's.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


def _console(stderr: bool = False) -> Console:
    return Console(emoji=False, highlight=False, markup=False, stderr=stderr)


@app.command()
def add(
    name: Name,
    place: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PLACE",
            help="A folder of class folders; a CSV, TSV, JSON lines or parquet file; a ZIP or TAR "
            "of these; tfds:NAME; hf:DATASET.",
        ),
    ],
    licence: Annotated[
        str, typer.Option(help="Under which they may be used; published with the task.")
    ] = "",
    source: Annotated[
        str, typer.Option(help="Where they come from; published with the task.")
    ] = "",
    image_column: Annotated[str | None, typer.Option(help="Of a table.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Of a table.")] = None,
    split_column: Annotated[str | None, typer.Option(help="Of a table.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that a table's paths are relative to.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of splits that are made.")] = 0,
    max_bad: Annotated[
        float, typer.Option(min=0, max=1, help="Share of pictures that may be unusable.")
    ] = 0.01,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="FINDING", help="Add it in spite of this danger; may be repeated."),
    ] = None,
) -> None:
    """Adds pictures as a data set, checked and split."""
    from evolution.data import adding, printing
    from evolution.data.opening import Asked
    from evolution.data.tables import Columns

    request = adding.Request(
        name=name,
        place=place,
        asked=Asked(Columns(image_column, label_column, split_column), images),
        licence=licence,
        source=source,
        seed=seed,
        max_bad=max_bad,
        allowed=tuple(allow or ()),
    )
    console, where = _console(), _place()
    try:
        with _progress() as progress:
            card, classes, new, notes = adding.add(request, where, progress)
    except adding.Refused as error:
        printing.print_report(console, error.report, error.classes)
        raise
    printing.print_card(console, card, classes)
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)
    if new:
        typer.echo(f"added {name} to {where}")
        typer.echo(f"next: munet evolve {name} --store STORE")
    else:
        typer.echo(f"{name} is at {where} already, with the same pictures: nothing was added")


@app.command("ls")
def list_sets(as_json: AsJson = False) -> None:
    """Lists the data sets that are there."""
    from evolution.data import printing
    from evolution.data.stored import cards

    where = _place()
    damaged: list[DataError] = []
    found = cards(where, damaged.append)
    if as_json:
        _print_json([json.loads(card.to_bytes()) for card in found])
    elif not found and not damaged:
        typer.echo(f"no data set at {where}; add one: munet data add NAME --from FOLDER")
    else:
        printing.print_list(_console(), found)
    if damaged:
        raise DataError("\n".join(map(str, damaged)))


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Shows a data set as it was checked last."""
    from evolution.data import printing
    from evolution.data.stored import classes_of

    where = _place()
    card = _card(where, name)
    if as_json:
        _print_json({**json.loads(card.to_bytes()), "classes": list(classes_of(where, card))})
    else:
        printing.print_card(_console(), card, classes_of(where, card))


@app.command()
def check(name: Name) -> None:
    """Reads all of a data set again and says what is in it; exit code 1 for dangers."""
    from evolution.data import adding, printing

    where = _place()
    card = _card(where, name)
    with _progress() as progress:
        report, classes = adding.check_again(where, card, progress)
    printing.print_report(_console(), report, classes)
    adding.keep_check(where, card, report)  # last: where it cannot be kept, it has been told
    if report.dangers:
        raise typer.Exit(1)


@app.command()
def rm(name: Name) -> None:
    """Removes a data set, or what is left of one; what was trained on it stays."""
    from evolution.data.stored import folder_of

    where = _place()
    if not where.remove(folder_of(name)):
        raise _unknown(where, name)
    typer.echo(f"removed {name} from {where}")


def _place() -> Place:
    from evolution.data.places import open_place

    return open_place()


def _card(place: Place, name: str) -> Card:
    from evolution.data.stored import card_of

    card = card_of(place, name)
    if card is None:
        raise _unknown(place, name)
    return card


def _unknown(place: Place, name: str) -> DataError:
    from evolution.data.stored import near_names

    return DataError(f"no data set {name!r} at {place}; {near_names(place, name)}")


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], object]]:
    """One line that counts, on a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = _console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        row = bar.add_task("", total=None)

        def show(doing: str, done: int, total: int | None) -> None:
            bar.update(row, description=f"{doing:9}", completed=done, total=total)

        yield show
