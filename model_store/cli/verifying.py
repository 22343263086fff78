"""The command that looks for damage in a store, and repairs it."""

import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import Annotated

import typer

from model_store.cli.printing import Store
from model_store.cli.transfer import blob_source
from model_store.errors import ExchangeError
from model_store.store import ModelStore
from model_store.upkeep import verify_store
from model_store.upkeep.repair import repair as repair_store
from model_store.upkeep.verification import Problem

app = typer.Typer()

WIDTH = 80  # of a line, but that paths and digests stay whole, so that they can be copied


@app.command()
def verify(
    store: Store,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Restore what can be: documents from their second copies, and all else"
            " from the place given by --from.",
        ),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A backup or another store, oci:DIRECTORY or docker://REGISTRY/REPOSITORY.",
        ),
    ] = None,
) -> None:
    """Check every byte; exit code 1 if any is damaged."""
    if not repair:
        if source is not None:
            raise ExchangeError("verify: expected --repair with --from, found --from alone")
        _tell(verify_store(ModelStore(store), under_way=True))
        return
    report = repair_store(store, blob_source(source) if source else None)
    for line in report.repaired:
        _tell_one(f"repaired: {line}")
    _tell(report.problems)


def _tell(problems: Iterable[Problem]) -> None:
    count = Counter(problem.severity for problem in problems)
    for problem in problems:
        _tell_one(f"{problem.severity}: {problem.message}")
    typer.echo(f"{count['error']} errors, {count['warning']} warnings")
    if count["error"]:
        raise typer.Exit(1)


def _tell_one(text: str) -> None:
    printable = text.encode("utf-8", "backslashreplace").decode()  # of any file name
    typer.echo(
        textwrap.fill(
            printable,
            WIDTH,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )
