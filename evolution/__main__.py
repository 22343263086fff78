"""`munet experiments`: runs, resumes and compares the systems of the papers; prepares data."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jax
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from evolution.agents.command import agents
from evolution.agents.worker import work
from evolution.checkpoints import CheckpointError, import_state
from evolution.data.preparing import PreparationError, default_data_dir, prepare
from evolution.data.tasks import TaskError, source_of
from evolution.experiments.baselines import baseline
from evolution.experiments.experiment import Experiment, with_settings
from evolution.experiments.named import EXPERIMENTS
from evolution.experiments.options import LongOption, SetOption, StoreOption
from evolution.experiments.run_size import Plan, require_reasonable
from evolution.experiments.settings import SettingError, suggestion
from evolution.process.computing import computing
from evolution.reports.leaderboard import leaderboard, table_of
from evolution.reports.training_speed import bench
from evolution.roots import probes
from evolution.roots.download import DownloadError
from evolution.roots.loading import SHIPPED, RootError, load_root, read_root
from evolution.roots.sources import RootTraining, root_sources
from evolution.roots.training import encode_root, train_root
from evolution.run import Root, Run, Source, require_run_name
from evolution.runs.following import follow, say
from evolution.state import StateError
from evolution.state import runs as known_runs
from evolution.training.memory import exhausted
from model_store import ModelStore, StoreError

KNOWN_ERRORS = (
    StateError, StoreError, TaskError, PreparationError, RootError, DownloadError, CheckpointError,
    OSError,
)  # fmt: skip


class Computing(TyperGroup):
    """Commands that compute. A known failure becomes one message, and exit code 1 or 2.

    A command that is told to stop ends with 130 (Ctrl-C) or 143 (SIGTERM).
    """

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        with computing():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:  # `computing` says that it stopped
                raise SystemExit(130) from None
            except SettingError as error:
                _fail(str(error), code=2)
            except (MemoryError, jax.errors.JaxRuntimeError, *KNOWN_ERRORS) as error:
                message = exhausted(error)
                if message is None and not isinstance(error, KNOWN_ERRORS):
                    raise
                _fail(message or str(error))


app = typer.Typer(
    cls=Computing,
    add_completion=False,
    no_args_is_help=True,
    help="Runs, resumes and compares the systems of the papers; prepares data for them.",
)
console = Console(emoji=False)

ExperimentArgument = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT",
        help=f"One of {', '.join(EXPERIMENTS)}.",
        autocompletion=lambda: list(EXPERIMENTS),
        show_default=False,
    ),
]


SeedOption = Annotated[int, typer.Option(min=0, help="Same seed, same machine: same result.")]
RootOption = Annotated[
    str | None,
    typer.Option(
        "--root",
        metavar="SPEC",
        help="shipped, random:Ti/16, augreg:FILE-OR-URL[#sha256=...] or hf:DIRECTORY.",
    ),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Name of the run; by default that of its experiment.")
]
_LONGEST_MESSAGE = 5  # lines


def _experiment(name: str, root: str | None, settings: list[str] | None) -> Experiment:
    if name not in EXPERIMENTS:
        near = suggestion(name, EXPERIMENTS)
        raise SettingError(
            f"unknown experiment {name!r}; {near} `munet experiments run --help` lists all"
        )
    experiment = with_settings(EXPERIMENTS[name], settings or [])
    return replace(experiment, root=root) if root else experiment


@app.command()
def run(
    experiment: ExperimentArgument,
    store: StoreOption,
    seed: SeedOption = 0,
    root: RootOption = None,
    continue_from: Annotated[
        str | None,
        typer.Option(metavar="STORE[#RUN]", help="Continue the system of another run."),
    ] = None,
    name: NameOption = None,
    settings: SetOption = None,
    long: LongOption = False,
) -> None:
    """Starts an experiment and publishes each task's best path."""
    chosen = _experiment(experiment, root, settings)
    if continue_from is None:
        return _run_from_root(chosen, store, seed, name, long)
    if root is not None:
        raise SettingError("--continue-from brings its own root; leave out --root")
    _require_startable(chosen, name, long)
    system, source = _system(continue_from), _found(chosen)
    opened = ModelStore(store, create=True)
    follow(Run.extend(chosen, opened, seed, source, system, name), console)


def _run_from_root(
    experiment: Experiment, store: str, seed: int, name: str | None, long: bool
) -> None:
    """Checks everything before the store or the name is created."""
    _require_startable(experiment, name, long)
    root, source = _root(experiment), _found(experiment)
    opened = ModelStore(store, create=True)
    follow(Run.start(experiment, root, opened, seed, source, name), console)


def _require_startable(experiment: Experiment, name: str | None, long: bool) -> None:
    name = name or experiment.name
    require_run_name(name)
    experiment.require_defaults_in_ranges()
    plan = Plan.of(experiment)
    require_reasonable(plan, f"run {name}", long)
    say(console, f"run {name}: {plan}")


def _found(experiment: Experiment) -> Source:
    """The source of the run's tasks. Raises TaskError if one is missing."""
    source = source_of(experiment)
    for entry in dict.fromkeys(experiment.tasks):
        source(entry)
    return lambda _: source


def _root(experiment: Experiment) -> Root:
    defaults = experiment.defaults
    root = load_root(experiment.root, defaults["ds_image_size"], defaults["num_layers"])
    experiment.require_patches(root[0].patch_size)
    return root


def _system(spec: str) -> tuple[ModelStore, str]:
    """A run to continue: STORE#RUN, or STORE if it holds only one run."""
    directory, _, name = spec.partition("#")
    store = ModelStore(directory)
    runs = known_runs(store)
    if not name and len(runs) != 1:
        raise StateError(
            f"store {directory} holds {len(runs)} runs; choose one: "
            f"--continue-from {directory}#RUN with RUN of {', '.join(runs) or 'none'}"
        )
    return store, name or runs[0]


@app.command("baseline")
def baseline_command(
    kind: Annotated[
        str,
        typer.Argument(
            help="finetune-all, random-search, linear-probe, freeze:N, adapters:R or size-scale:X."
        ),
    ],
    experiment: ExperimentArgument,
    store: StoreOption,
    seed: SeedOption = 0,
    root: RootOption = None,
    name: NameOption = None,
    settings: SetOption = None,
    long: LongOption = False,
) -> None:
    """Runs a baseline with the tasks, root and training budget of an experiment."""
    chosen = baseline(kind, _experiment(experiment, root, settings))
    _run_from_root(chosen, store, seed, name, long)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="Name of the run; by default that of its experiment.")],
    store: StoreOption,
    task: Annotated[
        list[str] | None, typer.Option(help="One more task (TFDS name), after all others.")
    ] = None,
    settings: SetOption = None,
    long: LongOption = False,
) -> None:
    """Continues a run where it stopped. --task adds a task to its system."""
    search = Run.resume(ModelStore(store), run, source_of, tuple(task or ()), settings or [])
    left = search.progress.schedule[search.progress.iteration :]
    require_reasonable(Plan.of(search.experiment, len(left)), f"what is left of run {run}", long)
    follow(search, console)


@app.command("import")
def import_command(
    directory: Annotated[Path, typer.Argument(help="The unpacked folder of a published state.")],
    store: StoreOption,
    positions: Annotated[
        str | None,
        typer.Option(
            metavar="augreg:FILE",
            help="The file that the system began with: for position embeddings of other sizes.",
        ),
    ] = None,
) -> None:
    """Imports a published checkpoint: its paths become versions, its runs can be continued."""
    if positions and not positions.startswith("augreg:"):
        raise SettingError(f"--positions {positions!r}: expected augreg:FILE, or augreg:URL")
    published = read_root(positions)[1]["posembed_input"] if positions else None
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task("import", total=None)
        report = import_state(
            directory,
            ModelStore(store, create=True),
            progress=lambda done, total: bar.update(row, completed=done, total=total),
            positions=published,
        )
    console.print(report.text(), highlight=False, soft_wrap=True, markup=False)


@app.command("analyse")
def analyse_command(
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="Folder for the page and its figures.")],
    run: Annotated[
        list[str] | None, typer.Option("--run", help="Runs to show; all by default.")
    ] = None,
) -> None:
    """Writes an HTML page about the stored runs; prints which of several experiments is best."""
    from evolution.reports.decision import table_of  # take seconds to load
    from evolution.reports.stored_runs import analyse

    found = analyse(ModelStore(store), out, run or ())
    if found.decision:
        console.print(table_of(found.decision))
    console.print(f"wrote {found.page}", soft_wrap=True)


@app.command("bench")
def bench_command(
    experiment: ExperimentArgument,
    size: Annotated[str, typer.Option(help="The network, such as Ti/16 or B/16.")] = "Ti/16",
    settings: SetOption = None,
) -> None:
    """Measures how fast an experiment's children train here, on generated images."""
    chosen = _experiment(experiment, None, settings)
    for line in bench(chosen, size).lines():
        console.print(line, highlight=False, soft_wrap=True, markup=False)


app.command()(agents)


@app.command("agent-process", hidden=True)
def agent_process() -> None:
    """Runs one agent; the command `agents` starts it."""
    raise typer.Exit(work(KNOWN_ERRORS))


@app.command("leaderboard")
def leaderboard_command(
    store: StoreOption,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Shows every task's live path."""
    rows = leaderboard(ModelStore(store))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        console.print(table_of(rows))


@app.command("prepare")
def prepare_command(
    name: Annotated[str, typer.Argument(help="TFDS name, such as mnist or cmaterdb/telugu.")],
    source: Annotated[
        Path | None, typer.Option(help="Folder with the raw files; by default TFDS downloads them.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of prepared data sets.")] = None,
) -> None:
    """Prepares a data set in a format that can be read without TensorFlow."""
    console.print(f"prepared {prepare(name, data_dir or default_data_dir(), source)}")


@app.command()
def root(
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of prepared data sets, with EuroSAT and Omniglot."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = SHIPPED,
) -> None:
    """Trains the shipped root again: 45 minutes. Started again, it goes on where it stopped."""
    data_dir, training = data_dir or default_data_dir(), RootTraining()
    work = out.with_name(f"{out.name}.training")
    sources = root_sources(data_dir, training, work)
    for done in train_root(sources, training, work / "state.npz"):
        if done.step % 100 == 0:
            descriptors, characters = done.losses
            console.print(
                f"step {done.step}/{training.steps}: loss {descriptors:.3f} of descriptors, "
                f"{characters:.3f} of characters",
                highlight=False,
            )
        if done.step == training.steps:
            part = work / out.name
            part.write_bytes(encode_root(done.components))
            part.replace(out)
    shutil.rmtree(work)
    console.print(f"wrote {out}", highlight=False)


@app.command("probe")
def probe_command(
    root: Annotated[str, typer.Argument(help="A root, as of --root.")] = "shipped",
    layers: Annotated[int, typer.Option(help="Blocks of it.")] = 3,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of prepared data sets.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Shows what a linear classifier reaches on a root's features, at several image sizes."""
    found = probes.probe_root(root, layers, data_dir or default_data_dir())
    if as_json:
        typer.echo(json.dumps({"sizes": probes.SIZES, "accuracy": found}, indent=2))
        return
    table = Table("data set", *(f"{size} px" for size in probes.SIZES))
    for name, accuracies in found.items():
        cells = [accuracies] if isinstance(accuracies, str) else [f"{a:.3f}" for a in accuracies]
        table.add_row(name, *cells)
    console.print(table)


def _fail(message: str, code: int = 1) -> NoReturn:
    text = "\n".join(message.splitlines()[:_LONGEST_MESSAGE])
    Console(emoji=False, stderr=True, style="red").print(
        f"error: {text}", highlight=False, soft_wrap=True, markup=False
    )
    raise SystemExit(code)


def main() -> None:
    """Runs the commands without `munet`: so an agent's process begins."""
    app(prog_name="munet experiments")


if __name__ == "__main__":
    main()
