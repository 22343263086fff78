"""`munet loadtest`: puts load on a gateway on this machine, or measures the model store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType

from loadtests.errors import LoadTestError, OptionError
from loadtests.report import json_line, render
from loadtests.run import measure
from loadtests.workload import Load, Popularity

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parent / "figures"

SizeOption = Annotated[str, typer.Option(help="Of the shared backbone: a name and a patch.")]
StoreOption = Annotated[
    str | None, typer.Option("--store", help="Below this s3://, gs:// or az:// URL.")
]
DirOption = Annotated[
    Path, typer.Option("--dir", help="On the disk to be measured, if there is no --store.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Append the run as a JSON line.")]
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
    console = Console(emoji=False)
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
    url: StoreOption = None,
    directory: DirOption = Path("."),
    tasks: Annotated[int, typer.Option(help="In the largest store.")] = 10_000,
    size: Annotated[str, typer.Option(help="Of the path: B/16, S/16, Ti/16 or tiny.")] = "B/16",
    rounds: Annotated[int, typer.Option(help="Of each throughput.")] = 7,
    output: JsonOption = None,
) -> None:
    """Measure the model store next to plain files, in a throw-away store."""
    from loadtests.store import Setup, json_line, measure, render  # safetensors is for this alone

    def run(say: Callable[[str], None]) -> tuple[RenderableType, str]:
        setup = Setup(str(directory), url, size=size, tasks=tasks, rounds=rounds)
        report = measure(setup, say)
        return render(report), json_line(report)

    _show(run, output)


@app.command()
def store_costs(
    url: StoreOption = None,
    directory: DirOption = Path("."),
    tasks: Annotated[int, typer.Option(help="In the store.")] = 10_000,
    rounds: Annotated[int, typer.Option(help="Of each operation.")] = 7,
    output: JsonOption = None,
) -> None:
    """Measure single operations of the model store: time, and system calls or requests."""
    from loadtests.store import CostSetup, json_line, measure_costs, render

    def run(say: Callable[[str], None]) -> tuple[RenderableType, str]:
        report = measure_costs(CostSetup(str(directory), url, tasks=tasks, rounds=rounds), say)
        return render(report), json_line(report)

    _show(run, output)


@app.command()
def agents(
    store: Annotated[str, typer.Option(help="Folder or URL of a store that is made for it.")],
    children: Annotated[
        str, typer.Option(help="Store with the agents whose children are the model.")
    ],
    agent: Annotated[
        list[str] | None, typer.Option(help="Agents or runs of that store; all by default.")
    ] = None,
    number: Annotated[
        list[int] | None, typer.Option("--agents", help="How many agents to simulate.")
    ] = None,
    cycles: Annotated[float, typer.Option(help="Cycles of each agent.")] = 10.0,
    per_task: Annotated[int, typer.Option(help="Agents that share a task.")] = 3,
) -> None:
    """Simulate many agents on a store, from measured children and calls to the store.

    Measure on a machine without other jobs: their work would count as the store's.
    """
    from loadtests.agents.command import show  # reads runs of evolution, which needs JAX

    console = Console(emoji=False, highlight=False)
    try:
        show(store, children, agent or (), number or (), cycles, per_task, console)
    except LoadTestError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


@app.command()
def noop(
    rounds: Annotated[int, typer.Option(help="In each, every server is asked in turn.")] = 5,
    seconds: Annotated[float, typer.Option(help="Of each server, load and round.")] = 1.0,
    output: Annotated[Path | None, typer.Option(help="Append the run as a JSON line.")] = None,
) -> None:
    """Measure what the gateway itself costs, next to bare Starlette and other model servers."""
    from loadtests.noop import Setup, json_line, measure, render  # publishes a task

    def run(say: Callable[[str], None]) -> tuple[RenderableType, str]:
        report = measure(Setup(rounds, seconds), say)
        return render(report), json_line(report)

    _show(run, output)


@app.command()
def peers(
    cells: Annotated[str, typer.Option(help="Some of them, separated by commas.")] = "",
    peers: Annotated[str, typer.Option(help="Some; ours: none; ours@FOLDER: a checkout.")] = "",
    rounds: Annotated[int, typer.Option(help="In each, every server takes its turn.")] = 3,
    tasks: Annotated[int, typer.Option(help="Of most cells; others have more or fewer.")] = 100,
) -> None:
    """Measure the gateway end to end next to what one would run without it; under an hour.

    Appends a line to loadtests/results/peers.jsonl.
    """
    from loadtests.peers import CELLS, PEERS, Setup, json_line, measure, render  # publishes tasks

    def run(say: Callable[[str], None]) -> tuple[RenderableType, str]:
        setup = Setup(
            cells=tuple(cells.split(",")) if cells else tuple(CELLS),
            peers=tuple(peers.split(",")) if peers else PEERS,
            rounds=rounds,
            tasks=tasks,
        )
        result = measure(setup, say)
        return render(result), json_line(result)

    _show(run, RESULTS / "peers.jsonl")


@app.command()
def many_images(
    images: Annotated[int, typer.Option(help="In the folder.")] = 256,
    rounds: Annotated[int, typer.Option(help="In each, both take their turn.")] = 3,
) -> None:
    """Measure munet classify on a folder next to an ONNX Runtime session for each task."""
    from loadtests.peers.many_images import Setup, measure  # publishes tasks

    _show(lambda say: (measure(Setup(images, rounds=rounds), say), ""), None)


@app.command()
def engine(
    rounds: Annotated[int, typer.Option(help="In each, everything takes its turn.")] = 7,
    seconds: Annotated[float, typer.Option(help="Of each turn.")] = 0.1,
    output: Annotated[Path | None, typer.Option(help="Append the run as a JSON line.")] = None,
) -> None:
    """Measure how fast the engine computes, next to other frameworks on the same networks."""
    from loadtests.engine import Setup, json_line, measure, render  # loads the frameworks

    def run(say: Callable[[str], None]) -> tuple[RenderableType, str]:
        setup = Setup(rounds, seconds)
        report = measure(setup, say)
        return render(report), json_line(setup, report)

    _show(run, output)


@app.command()
def shadows(
    rounds: Annotated[int, typer.Option(help="In each, with and without take their turn.")] = 30,
) -> None:
    """Measure what a silent copy for another version costs the engine."""
    from loadtests.engine.shadows import measure  # loads the engine

    _show(lambda _: (measure(rounds), ""), None)


@app.command()
def residency(
    tasks: Annotated[int, typer.Option(help="In the store; a budget is a share of them.")] = 200,
    size: SizeOption = "Ti/16",
    image_size: Annotated[int, typer.Option(help="Pixels; more make misses count less.")] = 32,
    seconds: Annotated[float, typer.Option(help="Of each popularity and budget.")] = 8.0,
    output: Annotated[Path | None, typer.Option(help="Append the run as a JSON line.")] = None,
) -> None:
    """Measure throughput where the tasks asked for need more memory than they may have."""
    from loadtests import residency  # publishes tasks

    def measure(say: Callable[[str], None]) -> tuple[RenderableType, str]:
        setup = residency.Setup(tasks, size, image_size, seconds)
        result = residency.measure(setup, say)
        return residency.render(result), residency.json_line(setup, result)

    _show(measure, output)


@app.command()
def density(
    tasks: Annotated[int, typer.Option(help="On one backbone, all loaded.")] = 1000,
    size: SizeOption = "Ti/16",
    image_size: Annotated[int, typer.Option(help="Pixels.")] = 32,
    catalog: Annotated[int, typer.Option(help="Tasks of the largest store.")] = 10_000,
    seconds: Annotated[float, typer.Option(help="Of each round of requests.")] = 3.0,
    output: Annotated[Path | None, typer.Option(help="Append the run as a JSON line.")] = None,
) -> None:
    """Measure what many tasks in one gateway cost: memory, start, first answers, throughput."""
    from loadtests import density  # publishes tasks

    def measure(say: Callable[[str], None]) -> tuple[RenderableType, str]:
        setup = density.Setup(tasks, size, image_size, catalog, seconds)
        result = density.measure(setup, say)
        return density.render(setup, result), density.json_line(setup, result)

    _show(measure, output)


@app.command()
def growth(
    tasks: Annotated[list[int] | None, typer.Option(help="Default: 10 to 10,000.")] = None,
    rounds: Annotated[int, typer.Option(help="In each, every number takes its turn.")] = 3,
    figures: Annotated[Path, typer.Option(help="Where the SVG files go.")] = FIGURES,
    output: Annotated[Path | None, typer.Option(help="Append the run as a JSON line.")] = None,
) -> None:
    """Measure how cost grows with tasks and with components in a batch; draws figures."""
    from loadtests import growth  # publishes tasks

    def measure(say: Callable[[str], None]) -> tuple[RenderableType, str]:
        setup = growth.Setup(tuple(tasks or growth.TASKS), rounds)
        result = growth.measure(setup, say)
        growth.write(result, figures)
        return growth.render(result), growth.json_line(result)

    _show(measure, output)


@app.command()
def replicas(
    tasks: Annotated[int, typer.Option(help="Of one small backbone, in the store of all.")] = 3000,
    count: Annotated[int, typer.Option("--replicas", help="Gateways behind HAProxy.")] = 3,
    seconds: Annotated[float, typer.Option(help="Of each round of requests.")] = 3.0,
    output: Annotated[Path | None, typer.Option(help="Append the run as a JSON line.")] = None,
) -> None:
    """Measure several gateways on one store behind HAProxy, one of which is killed."""
    from loadtests.replicas import Setup, json_line, measure, render  # publishes tasks

    def run(say: Callable[[str], None]) -> tuple[RenderableType, str]:
        setup = Setup(tasks, count, seconds)
        result = measure(setup, say)
        return render(setup, result), json_line(setup, result)

    _show(run, output)


@app.command()
def churn(
    changes: Annotated[int, typer.Option(help="Additions, failing ones too, and removals.")] = 1000,
    seconds: Annotated[float, typer.Option(help="Over which to spread them, at least.")] = 60.0,
    output: Annotated[Path | None, typer.Option(help="Append the run as a JSON line.")] = None,
) -> None:
    """Measure what tasks that come and go under load do to requests, memory and metrics."""
    from loadtests import churn  # publishes tasks

    def measure(say: Callable[[str], None]) -> tuple[RenderableType, str]:
        setup = churn.Setup(changes, seconds)
        result = churn.measure(setup, say)
        return churn.render(result), churn.json_line(setup, result)

    _show(measure, output)


@app.command()
def rollouts(
    rounds: Annotated[int, typer.Option(help="In each, both gateways take their turn.")] = 15,
) -> None:
    """Measure what canaries, shadows, samples and an open page cost the answers; ten minutes."""
    from loadtests.rollouts import measure, render  # publishes tasks

    _show(lambda say: (render(measure(rounds, say)), ""), None)


@app.command()
def sharing(
    tasks: Annotated[int, typer.Option(help="Asked for at once.")] = 8,
    own_blocks: Annotated[int, typer.Option(help="Last blocks that a task has for itself.")] = 3,
    size: SizeOption = "Ti/16",
    image_size: Annotated[list[int] | None, typer.Option(help="Default: 64 and 224.")] = None,
    rounds: Annotated[int, typer.Option(help="In each, every way takes its turn.")] = 30,
    output: Annotated[Path | None, typer.Option(help="Append the run as a JSON line.")] = None,
) -> None:
    """Measure one request for several tasks next to separate requests with the same image."""
    from loadtests import sharing  # publishes tasks

    def measure(say: Callable[[str], None]) -> tuple[RenderableType, str]:
        setup = sharing.Setup(tasks, own_blocks, size, tuple(image_size or (64, 224)), rounds)
        result = sharing.measure(setup, say)
        return sharing.render(setup, result), sharing.json_line(setup, result)

    _show(measure, output)


@app.command()
def flood(
    size: Annotated[str, typer.Option(help="Of the backbone: a name and a patch.")] = "Ti/16",
    image_size: Annotated[int, typer.Option(help="Pixels; sets how much there is to do.")] = 128,
    tasks: Annotated[int, typer.Option(help="With adapters and a head of their own.")] = 16,
    seconds: Annotated[float, typer.Option(help="Of each load.")] = 8.0,
    deadline_ms: Annotated[int, typer.Option(help="Of every request.")] = 1000,
    output: Annotated[Path | None, typer.Option(help="Append the run as a JSON line.")] = None,
) -> None:
    """Offer a gateway up to ten times what it can do; and a light task next to a flood."""
    from loadtests.flood import Setup, json_line, measure, render  # publishes tasks

    def run(say: Callable[[str], None]) -> tuple[RenderableType, str]:
        setup = Setup(size, image_size, tasks=tasks, seconds=seconds, deadline_ms=deadline_ms)
        result = measure(setup, say)
        return render(result), json_line(result)

    _show(run, output)


def _show(
    measure: Callable[[Callable[[str], None]], tuple[RenderableType, str]], output: Path | None
) -> None:
    """Runs a measurement, prints its table and appends its line of JSON."""
    console = Console(emoji=False)
    try:
        if output is not None:
            _require_writable(output)
        with console.status("starting") as status:
            table, line = measure(status.update)
    except LoadTestError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    console.print(table)
    if output is not None:
        with output.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _require_writable(output: Path) -> None:
    """Finds out before the run, not after it, that its result cannot be kept."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.open("a").close()
    except OSError as error:
        raise OptionError(f"opening output: expected a writable file, found {error}") from error
