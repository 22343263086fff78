"""`munet classify`: asks about pictures, a few or many, and prints or tabulates the answers.

It ends with 0 if every picture was answered, 1 if one was not, 2 for a wrong command line. A
picture that cannot be answered leaves the others alone. What is wrong with the task, the token or
the gateway ends the command; what was answered before is shown, or kept for the next run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from model_store import StoreError
from service.bulk import gateway
from service.bulk.answering import Answered, Answering, NotPinned, Opened, Pins
from service.bulk.interrupts import interruptible
from service.bulk.parts import Asked, OtherRun, Parts, Run
from service.bulk.printing import print_answers
from service.bulk.progress import Progress, duration
from service.bulk.sources import BadSource, Listing, Source, open_sources
from service.bulk.tables import UnknownForm, require_form
from service.client import ClientError, Retries
from service.client.tasks_command import TOKEN, URL, client_at
from service.errors import SettingsError, Told

ERRORS = (ClientError, StoreError, NotPinned, SettingsError, Told)
# Of a table that is made overnight: a gateway may be away for a while.
OVERNIGHT = Retries(total_s=600.0, statuses=(429, 503, 504))
INTERRUPTED = 130
app = typer.Typer(add_completion=False)


@app.command(epilog=f"Where a gateway wants a token, it is taken from the variable {TOKEN}.")
def classify(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="A picture, a folder, a pattern in quotes, a list of paths or URLs (.txt), a "
            "table (.csv, .tsv, .jsonl, .parquet), or s3://BUCKET/PREFIX (gs://, az://).",
        ),
    ],
    task: Annotated[list[str], typer.Option(metavar="TASK", help="Who answers; repeatable.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A table to write: .parquet, .csv or .jsonl. If interrupted, the same command "
            "goes on.",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help=f"Where the gateway is, if not at {URL}.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Answer in this process, from a store; no gateway."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels for each picture.")] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON instead of a table; with --out, a summary.")
    ] = False,
) -> None:
    """Asks about pictures, a few or many: a running gateway, or this process."""
    if url is not None and store is not None:
        raise typer.BadParameter("expected --url or --store, found both")
    where = _Where(url or URL, store, tuple(dict.fromkeys(task)), top_k)
    try:
        if out is None:
            errors = _printed(open_sources(source), where, as_json)
        else:
            require_form(out)
            errors = _table(out, tuple(source), where, as_json)
    except (BadSource, OtherRun, UnknownForm) as error:
        raise typer.BadParameter(str(error)) from None
    if errors:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Where:
    """Who answers a table."""

    url: str
    store: str | None
    tasks: tuple[str, ...]
    top_k: int

    def opened(self, pins: Pins | None) -> Opened:
        """As the two `opened`. JAX and the like are loaded where they compute, and only there."""
        if self.store is None:
            clients = client_at(self.url), client_at(self.url, OVERNIGHT)
            return gateway.opened(*clients, self.tasks, self.top_k, pins)
        from service.bulk import in_process

        return in_process.opened(self.store, self.tasks, self.top_k, pins)


def _table(out: Path, sources: tuple[str, ...], where: _Where, as_json: bool) -> int:
    """How many rows have no answer."""
    console = Console(emoji=False, stderr=True)
    parts = Parts(out, Asked(_absolute(sources), where.tasks, where.top_k))
    with parts.held() as earlier:
        source = earlier.source if earlier else open_sources(sources)
        progress = Progress(len(source), parts.done, console)
        if earlier:
            _say(console, f"goes on after {parts.done:,} of {len(source):,} images")
        elif isinstance(source, Listing) and source.left_out:
            _say(console, f"left out: {source.left_out:,} files that are no pictures by their name")
        pins = earlier.pins if earlier else None
        try:
            with progress.shown():
                pins = _answered(parts, source, pins, where, progress)
        except KeyboardInterrupt:
            _say(
                console, f"stopped after {parts.done:,} images; the same command goes on from there"
            )
            raise typer.Exit(INTERRUPTED) from None
        rows, errors = parts.join()
    _summary(out, len(source), pins, (rows, errors), progress, as_json)
    return errors


def _answered(
    parts: Parts, source: Source, pins: Pins | None, where: _Where, progress: Progress
) -> Pins:
    """Answers what is left to do; the versions that did."""
    if pins is not None and parts.done == len(source):
        return pins
    with ExitStack() as stack:
        found, answering = stack.enter_context(where.opened(pins))
        if pins is None:
            parts.begin(Run(source, found))
        take = stack.enter_context(parts.writing(found))
        check = stack.enter_context(interruptible())
        progress.begin()
        for chunk in answering.answers(source.items(parts.done)):
            take(chunk)
            progress.count(chunk)
            check()
    return found


def _summary(
    out: Path,
    images: int,
    pins: Pins,
    counts: tuple[int, int],
    progress: Progress,
    as_json: bool,
) -> None:
    rows, errors = counts
    speed = progress.images / progress.seconds if progress.seconds else 0.0
    if as_json:
        told = {
            "out": str(out),
            "images": images,
            "rows": rows,
            "errors": errors,
            "images_of_this_run": progress.images,
            "seconds": round(progress.seconds, 3),
            "images_per_s": round(speed, 3),
            "tasks": [
                {"task": task, "version": pin.version, "digest": pin.digest}
                for task, pin in pins.items()
            ],
        }
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    without = f", {errors:,} without an answer" if errors else ""
    typer.echo(f"{out}: {images:,} images, {rows:,} rows{without}")
    if progress.images:
        typer.echo(f"{progress.images:,} images in {duration(progress.seconds)}: {speed:,.1f}/s")


def _absolute(sources: Sequence[str]) -> tuple[str, ...]:
    """The same names from any folder."""
    return tuple(one if "://" in one else str(Path(one).absolute()) for one in sources)


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _printed(source: Source, where: _Where, as_json: bool) -> bool:
    """Whether a picture has no answer."""
    found: list[Answered] = []
    with ExitStack() as stack:
        if where.store is None:
            unpinned = gateway.opened_unpinned(client_at(where.url), where.tasks, where.top_k)
            answering: Answering = stack.enter_context(unpinned)
        else:
            _, answering = stack.enter_context(where.opened(None))
        try:
            for chunk in answering.answers(source.items(0)):
                found += chunk
        finally:
            print_answers(found, as_json)
    return any(answer.error for _, answers in found for answer in answers)
