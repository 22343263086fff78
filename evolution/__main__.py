"""`python -m evolution`: run and resume experiments, see where they stand, prepare data."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import jax
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from evolution.experiments import EXPERIMENTS, Experiment
from evolution.population import ROOT
from evolution.prepare import PreparationError, prepare
from evolution.roots import SHIPPED, RootTraining, encode_root, train_root
from evolution.search import ChildTrained, Search, TaskPublished
from evolution.state import StateError
from evolution.tasks import TaskError, TaskSource, default_data_dir, omniglot
from model_store import ModelStore, StoreError
from vit.components import Tree

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console()

StoreOption = Annotated[
    Path, typer.Option("--store", envvar="MUNET_STORE", help="Directory of the model store.")
]
ExperimentArgument = Annotated[str, typer.Argument(metavar="EXPERIMENT", show_default=False)]


def _experiment(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise typer.BadParameter(
            f"unknown experiment {name!r}; there are: {', '.join(EXPERIMENTS)}"
        )
    return EXPERIMENTS[name]


@app.command()
def run(
    experiment: ExperimentArgument,
    store: StoreOption,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same machine: same result.")] = 0,
) -> None:
    """Starts an experiment and publishes each task's best path."""
    chosen = _experiment(experiment)
    _follow(Search.start(chosen, ModelStore(store, create=True), seed, TaskSource()))


@app.command()
def resume(
    experiment: ExperimentArgument,
    store: StoreOption,
    task: Annotated[
        list[str] | None, typer.Option(help="A further task (TFDS name), after all others.")
    ] = None,
) -> None:
    """Continues an experiment where it stopped; with --task, grows the system by a task."""
    chosen = _experiment(experiment)
    _follow(Search.resume(chosen, ModelStore(store), TaskSource(), tuple(task or ())))


@app.command()
def leaderboard(store: StoreOption) -> None:
    """Shows every task's live path."""
    opened = ModelStore(store)
    table = Table("task", "v", "validation", "test", "parameters", "accounted")
    for column in table.columns:
        column.no_wrap = True
    for name in opened.tasks():
        published = opened.resolve(name)
        path = published.path
        table.add_row(
            name + (" (private)" if path.private else ""),
            str(published.version),
            _number(path.metrics.get("validation", {}).get("accuracy"), ".4f"),
            _number(path.metrics.get("test", {}).get("accuracy"), ".4f"),
            _number(path.parameters.get("total"), ",d"),
            _number(path.parameters.get("accounted"), ",.0f"),
        )
    console.print(table)


def _number(value: float | None, form: str) -> str:
    """Paths that no search published may lack it."""
    return "-" if value is None else format(value, form)


@app.command("prepare")
def prepare_command(
    name: Annotated[str, typer.Argument(help="TFDS name, such as mnist or cmaterdb/telugu.")],
    source: Annotated[
        Path | None, typer.Option(help="Folder with the raw files; without it TFDS downloads them.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where prepared data sets lie.")] = None,
) -> None:
    """Prepares a data set in the format that reads without TensorFlow."""
    console.print(f"prepared {prepare(name, data_dir or default_data_dir(), source)}")


@app.command()
def root(
    data_dir: Annotated[Path | None, typer.Option(help="Where Omniglot lies prepared.")] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = SHIPPED,
) -> None:
    """Trains the root that ships with the project anew, on Omniglot; about 40 minutes."""
    training = RootTraining()
    images, labels = omniglot(data_dir or default_data_dir())
    steps = training.steps(len(labels))
    trained: dict[str, Tree] = {}
    for step, loss, components in train_root(images, labels, training):
        trained = components
        console.print(f"step {step}/{steps}: loss {loss:.3f}", highlight=False)
    out.write_bytes(encode_root(trained))
    console.print(f"wrote {out}", highlight=False)


def _follow(search: Search) -> None:
    if search.progress.iteration == len(search.progress.schedule):
        _say(f"run {search.experiment.name} is finished; resume --task adds a task to it")
    children = len(search.progress.schedule) * search.experiment.samples_per_task
    done = search.progress.iteration * search.experiment.samples_per_task
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task("children", total=children, completed=done + search.progress.generation)
        for event in search.run():
            if isinstance(event, ChildTrained):
                bar.advance(row)
                bar.update(row, description=f"{event.task} best {event.best_quality:.3f}")
                _say(_child_line(event))
            else:
                _say(_published_line(event))


def _say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def _child_line(event: ChildTrained) -> str:
    changes = [f"{k} {old}→{new}" for k, (old, new) in sorted(event.mutations.items())]
    outcome = "kept" if event.improved else "discarded"
    origin = "the root" if event.parent_task == ROOT else event.parent_task
    return (
        f"{event.task} child {event.generation + 1}/{event.generations} "
        f"from {origin}: validation {event.quality:.3f}, {outcome}, "
        f"trained {len(event.trained)} components"
        f"{', ' + ', '.join(changes) if changes else ''} ({event.seconds:.1f} s)"
    )


def _published_line(event: TaskPublished) -> str:
    return (
        f"{event.task} published as v{event.version}: validation {event.validation_accuracy:.3f}, "
        f"test {event.test_accuracy:.3f}, {event.total_params:,} parameters, of which "
        f"{event.new_params:,} are this task's alone"
    )


def main() -> None:
    """Runs the command line; known failures become one line and exit code 1."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS advises OpenCV at each start
    # A later run or resume loads compiled programs instead of compiling them again.
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", Path.home() / ".cache/munet/compilations")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    try:
        app()
    except (StateError, StoreError, TaskError, PreparationError, OSError) as error:
        stderr = Console(stderr=True, style="red")
        stderr.print(f"error: {error}", highlight=False, soft_wrap=True, markup=False)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
