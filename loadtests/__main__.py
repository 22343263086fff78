"""python -m loadtests: puts load on a gateway on this machine, or measures the model store."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtests.errors import LoadTestError, OptionError
from loadtests.report import json_line, render
from loadtests.run import measure
from loadtests.workload import Load, Popularity

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Black-box load on a running gateway, over HTTP only; and what the model store costs."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")


@app.command()
def run(
    rate: Annotated[float, typer.Option(help="Requests per second, on average.")],
    seconds: Annotated[float, typer.Option(help="How long to send.")],
    url: Annotated[str, typer.Option(help="The gateway.")] = "http://127.0.0.1:3000",
    popularity: Annotated[
        str, typer.Option(help="identical, distinct, uniform or zipf:EXPONENT.")
    ] = "uniform",
    task: Annotated[
        list[str] | None, typer.Option(help="Repeatable, most popular first. Default: all.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of PNG and JPEG files. Default: synthetic ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same requests.")] = 0,
    deadline_ms: Annotated[float, typer.Option(help="Later answers are no goodput.")] = 1000.0,
    output: Annotated[Path | None, typer.Option(help="Append the run as a JSON line.")] = None,
) -> None:
    """Send one load and report it. Exit code 0: all answered, 1: some were not, 2: not run."""
    console = Console()
    try:
        load = Load(
            url=url,
            rate=rate,
            seconds=seconds,
            popularity=Popularity.parse(popularity),
            tasks=tuple(task or ()),
            images=images,
            seed=seed,
            deadline_ms=deadline_ms,
        )
        if output is not None:
            _require_writable(output)
        with console.status(f"sending {rate:g} requests/s to {url} for {seconds:g} s"):
            result = asyncio.run(measure(load))
    except LoadTestError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    console.print(render(result))
    if output is not None:
        with output.open("a", encoding="utf-8") as file:
            file.write(json_line(result) + "\n")
    raise typer.Exit(1 if result.errors else 0)


@app.command()
def store(
    url: Annotated[
        str | None, typer.Option("--store", help="Below this s3://, gs:// or az:// URL.")
    ] = None,
    directory: Annotated[
        Path, typer.Option("--dir", help="On the disk to be measured, if there is no --store.")
    ] = Path("."),
    tasks: Annotated[int, typer.Option(help="In the largest store.")] = 10_000,
    size: Annotated[str, typer.Option(help="Of the path: B/16, S/16, Ti/16 or tiny.")] = "B/16",
    rounds: Annotated[int, typer.Option(help="Of each throughput.")] = 7,
    output: Annotated[
        Path | None, typer.Option("--json", help="Append the run as a JSON line.")
    ] = None,
) -> None:
    """Measure the model store beside plain files, in a throw-away store."""
    from loadtests.store import Setup, json_line, measure, render  # safetensors is for this alone

    console = Console()
    try:
        setup = Setup(str(directory), url, size=size, tasks=tasks, rounds=rounds)
        if output is not None:
            _require_writable(output)
        with console.status("starting") as status:
            report = measure(setup, status.update)
    except LoadTestError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    console.print(render(report))
    if output is not None:
        with output.open("a", encoding="utf-8") as file:
            file.write(json_line(report) + "\n")


def _require_writable(output: Path) -> None:
    """Finds out before the run, not after it, that its result cannot be kept."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.open("a").close()
    except OSError as error:
        raise OptionError(f"opening output: expected a writable file, found {error}") from error


if __name__ == "__main__":
    app(prog_name="python -m loadtests")
