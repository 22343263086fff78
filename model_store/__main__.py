"""Command line of the model store: `python -m model_store --help`."""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from model_store import ModelStore, Published, StoreError

app = typer.Typer(
    help="Look at and look after a store of multitask models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
# In a pipe there is no width to fit into: nothing is cut, one line stays one row.
console = Console(width=None if sys.stdout.isatty() else 250, highlight=False, markup=False)

Store = Annotated[
    Path, typer.Option("--store", envvar="MUNET_STORE", help="Directory of the store.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Task = Annotated[str, typer.Argument(help="Task id, such as cmaterdb/bangla.")]
Version = Annotated[
    int | None, typer.Option("--version", help="A version instead of the live one.")
]


@app.command("ls")
def list_tasks(store: Store, as_json: AsJson = False) -> None:
    """List the tasks that are served."""
    opened = ModelStore(store)
    published = [opened.resolve(task) for task in opened.tasks()]
    if as_json:
        _print_json([_summary(item) for item in published])
        return
    table = _table("task", "version", "classes", "components", "size", "private", "published")
    for item in published:
        path = item.path
        table.add_row(
            item.task,
            f"v{item.version}",
            str(len(path.labels)),
            str(len(path.components)),
            decimal(sum(item.sizes.values())),
            "yes" if path.private else "",
            item.created,
        )
    console.print(table)


def _summary(item: Published) -> dict[str, Any]:
    return {
        "task": item.task,
        "version": item.version,
        "digest": item.digest,
        "created": item.created,
        "size": sum(item.sizes.values()),
    }


@app.command()
def show(task: Task, store: Store, version: Version = None, as_json: AsJson = False) -> None:
    """Show one version of a task and its components."""
    item = ModelStore(store).resolve(task, version)
    if as_json:
        _print_json({**_summary(item), "sizes": dict(item.sizes), "path": item.path.to_json()})
        return
    facts = Table.grid(padding=(0, 2))
    facts.add_row("task", f"{item.task} v{item.version}")
    facts.add_row("published", item.created)
    facts.add_row("manifest", item.digest)
    facts.add_row("classes", str(len(item.path.labels)))
    for name in ("architecture", "input", "hyperparameters", "metrics", "parameters", "lineage"):
        facts.add_row(name, json.dumps(dict(getattr(item.path, name)), ensure_ascii=False))
    console.print(facts)
    table = _table("component", "size", "digest")
    for name, digest in item.path.components.items():
        table.add_row(name, decimal(item.sizes[name]), digest)
    console.print(table)


@app.command()
def du(store: Store, as_json: AsJson = False) -> None:
    """Show the bytes of each task, and what sharing saves."""
    usage = ModelStore(store).du()
    if as_json:
        _print_json({**asdict(usage), "ratio": usage.ratio})
        return
    table = _table("task", "own", "shared", "total")
    for task in usage.tasks:
        table.add_row(task.task, decimal(task.own), decimal(task.shared), decimal(task.total))
    console.print(table)
    console.print(
        f"{len(usage.tasks)} tasks: {decimal(usage.logical)} as separate models,"
        f" {decimal(usage.stored)} stored, ratio {usage.ratio:.2f};"
        f" {decimal(usage.disk)} on disk with earlier versions and agents' state"
    )


@app.command()
def verify(store: Store) -> None:
    """Check every byte; exit code 1 if any is damaged."""
    problems = ModelStore(store).verify()
    for problem in problems:
        console.print(f"{problem.severity}: {problem.message}", soft_wrap=True)
    errors = sum(problem.severity == "error" for problem in problems)
    console.print(f"{errors} errors, {len(problems) - errors} warnings")
    if errors:
        raise typer.Exit(1)


@app.command()
def gc(
    store: Store,
    grace_s: Annotated[
        float, typer.Option(min=0, help="Spare what was touched within so many seconds.")
    ] = 3600,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove blobs and temporary files that nothing needs."""
    report = ModelStore(store).gc(grace_s=grace_s, dry_run=dry_run)
    console.print(
        f"{'would remove' if dry_run else 'removed'} {len(report.removed)} blobs"
        f" ({decimal(report.freed_bytes)}) and {report.temporary_files} temporary files;"
        f" {report.kept} blobs kept"
    )


@app.command()
def history(task: Task, store: Store) -> None:
    """List the versions of a task, oldest first."""
    opened = ModelStore(store)
    versions = opened.history(task)
    live = opened.live().get(task, (None, None))[0]
    table = _table("version", "live", "published", "metrics", "lineage", "manifest")
    for item in versions:
        table.add_row(
            f"v{item.version}",
            "live" if item.version == live else "",
            item.created,
            json.dumps(dict(item.path.metrics), ensure_ascii=False),
            json.dumps(dict(item.path.lineage), ensure_ascii=False),
            item.digest,
        )
    console.print(table)


@app.command()
def rollback(
    task: Task, version: Annotated[int, typer.Argument(help="Version to serve.")], store: Store
) -> None:
    """Serve another version of a task from now on."""
    item = ModelStore(store).rollback(task, version)
    console.print(f"{item.task}: v{item.version} is live")


@app.command()
def rm(task: Task, store: Store, version: Version = None) -> None:
    """Remove a task, or one version that is not live."""
    ModelStore(store).rm(task, version)
    console.print(f"removed {task}{f' v{version}' if version else ''}; gc frees the bytes")


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        right = heading in ("size", "own", "shared", "total", "classes", "components")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    return table


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def main() -> None:
    """Run a command; an error is one line and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        app(prog_name="python -m model_store")
    except (StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
