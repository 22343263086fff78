"""Commands that change what a store serves, names, or keeps."""

from typing import Annotated

import typer
from rich.filesize import decimal

from model_store import ModelStore
from model_store.cli.printing import AsJson, Store, Task, Version, console, print_json, table
from model_store.cli.rolling_out import share
from model_store.upkeep import collect_garbage

app = typer.Typer()

Number = Annotated[int, typer.Argument(help="Number of a version, without the v.")]


@app.command("set")
def set_task(
    task: Task,
    min_probability: Annotated[
        str,
        typer.Option(
            help="Gateways abstain from an answer whose best probability is lower, such as 70%;"
            " 0: from none. A request may name another one."
        ),
    ],
    store: Store,
) -> None:
    """Set what holds for all versions of a task."""
    least = share(min_probability)
    ModelStore(store).set_min_probability(task, least)
    from_what = f"below {100 * least:.4g}%" if least else "from no answer"
    console.print(f"{task}: gateways abstain {from_what}")


@app.command()
def gc(
    store: Store,
    grace_s: Annotated[
        float,
        typer.Option(
            min=0,
            help="Spare what was touched within this number of seconds. It has to be more than any"
            " writer takes from its first put to its publish.",
        ),
    ] = 3600,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    fewer_documents: Annotated[
        bool,
        typer.Option(
            "--fewer-documents",
            help="Forget the tasks, agents and pins whose documents are lost.",
        ),
    ] = False,
) -> None:
    """Remove blobs and temporary files that nothing needs."""
    report = collect_garbage(
        ModelStore(store), grace_s=grace_s, dry_run=dry_run, fewer_documents=fewer_documents
    )
    console.print(
        f"{'would remove' if dry_run else 'removed'} {len(report.removed)} blobs"
        f" ({decimal(report.freed_bytes)}) and {report.temporary_files} temporary files;"
        f" {report.kept} blobs kept"
    )


@app.command()
def rollback(task: Task, version: Number, store: Store) -> None:
    """Serve another version of a task from now on."""
    item = ModelStore(store).rollback(task, version)
    console.print(f"{item.task}: v{item.version} is live")


@app.command()
def rm(
    task: Task,
    store: Store,
    version: Annotated[
        int | None,
        typer.Option("--version", help="Only this one; without it all versions, aliases too, go."),
    ] = None,
) -> None:
    """Remove a task, or one version that has no name."""
    ModelStore(store).rm(task, version)
    console.print(f"removed {task}{f' v{version}' if version else ''}; gc frees the bytes")


@app.command()
def pin(
    name: Annotated[str, typer.Argument(help="The pin's name.")],
    task: Task,
    store: Store,
    version: Version = None,
) -> None:
    """Let gc keep a version, even if it is removed."""
    opened = ModelStore(store)
    item = opened.resolve(task, version)
    opened.pin(name, item.digest)
    console.print(f"{name} keeps {item.digest}: {item.task} v{item.version}")


@app.command()
def unpin(name: Annotated[str, typer.Argument(help="The pin's name.")], store: Store) -> None:
    """Let gc remove what only a pin kept."""
    ModelStore(store).unpin(name)
    console.print(f"{name} keeps nothing now")


@app.command()
def pins(store: Store, as_json: AsJson = False) -> None:
    """List the pins."""
    found = ModelStore(store).pins()
    if as_json:
        print_json([{"pin": name, "manifest": digest} for name, digest in found.items()])
        return
    rows = table("pin", "manifest")
    for name, digest in found.items():
        rows.add_row(name, digest)
    console.print(rows)
