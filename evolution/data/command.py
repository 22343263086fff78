"""`munet data`: adds a user's own pictures, lists, checks and removes them."""

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

from evolution.data.errors import DataError, counted

if TYPE_CHECKING:
    from evolution.data.places import Place
    from evolution.data.stored import Card

# The readers of pictures take seconds to load, so commands import them when they run.
ERRORS = (DataError,)
app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the set and its task.")]
SamplesPlace = Annotated[
    str,
    typer.Option(
        "--samples",
        metavar="PLACE",
        envvar="MUNET_SAMPLES_TO",
        help="Folder or URL where gateways keep samples.",
    ),
]
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
            "of these; tfds:NAME; hf:DATASET; samples:TASK.",
        ),
    ],
    licence: Annotated[
        str, typer.Option(help="Licence of the pictures; published with the task.")
    ] = "",
    source: Annotated[
        str, typer.Option(help="Source of the pictures; published with the task.")
    ] = "",
    image_column: Annotated[str | None, typer.Option(help="Column of pictures.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of classes.")] = None,
    split_column: Annotated[str | None, typer.Option(help="Column of splits.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that a table's paths are relative to.")
    ] = None,
    samples: SamplesPlace = "",
    seed: Annotated[int, typer.Option(min=0, help="For splits that are made here.")] = 0,
    max_bad: Annotated[
        float, typer.Option(min=0, max=1, help="Share of pictures that may be unusable.")
    ] = 0.01,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="FINDING", help="Add it despite this finding; may be repeated."),
    ] = None,
) -> None:
    """Adds pictures as a data set: checks and splits them."""
    from evolution.data import adding, printing
    from evolution.data.opening import Asked
    from evolution.data.tables import Columns

    request = adding.Request(
        name=name,
        place=place,
        asked=Asked(Columns(image_column, label_column, split_column), images, samples),
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
    except KeyboardInterrupt:
        typer.echo("stopped; a set is added whole or not at all: munet data ls", err=True)
        raise
    printing.print_card(console, card, classes)
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)
    if new:
        typer.echo(f"added {name} to {where}")
        typer.echo(f"next: munet evolve {name} --store STORE")
    else:
        typer.echo(f"{name} is at {where} already, with the same pictures: nothing was added")


@app.command()
def label(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Of which a gateway kept samples.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="An empty folder, or a new one.")],
    samples: SamplesPlace = "",
) -> None:
    """Writes what gateways kept of a task to a folder, where its labels can be corrected."""
    from evolution.data.samples import TABLE, samples_of, write_labels

    kept = samples_of(task, samples)
    write_labels(kept, to)
    for note in kept.notes:
        typer.echo(f"note: {note}", err=True)
    pictures = counted(len(kept.found), "picture")
    typer.echo(f"{pictures}, those of the least sure answers first: {to / TABLE}")
    typer.echo("next: correct its column label, and delete the rows of pictures to leave out")
    typer.echo(f"then: munet data add NAME --from {to}")


@app.command("ls")
def list_sets(as_json: AsJson = False) -> None:
    """Lists the data sets."""
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
    """Shows a data set and its last check."""
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
    """Reads and checks a whole data set again; exit code 1 for dangerous findings."""
    from evolution.data import adding, printing

    where = _place()
    card = _card(where, name)
    with _progress() as progress:
        report, classes = adding.check_again(where, card, progress)
    printing.print_report(_console(), report, classes)
    adding.keep_check(where, card, report)  # last: it was printed already, if it cannot be kept
    if report.dangers:
        raise typer.Exit(1)


@app.command()
def rm(name: Name) -> None:
    """Removes a data set, also a broken one; tasks trained on it stay."""
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
    """A line with a counter, on a terminal."""
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
