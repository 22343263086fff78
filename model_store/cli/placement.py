"""`munet placement`: which replica serves which task, as a map file for the proxy before them."""

from collections import Counter
from typing import Annotated

import typer
from rich.filesize import decimal

from model_store import ModelStore, Published, StoreError
from model_store.cli.printing import Store
from model_store.upkeep.placement import Member, Placement, place

ERRORS = (StoreError,)
EVERY = 2**31  # version of a task
app = typer.Typer(add_completion=False)


@app.command(epilog="deploy/haproxy/README.md says how HAProxy is told.")
def placement(
    store: Store,
    replicas: Annotated[int, typer.Option(min=1, max=1000, help="How many there are.")] = 3,
) -> None:
    """Writes on which replica each task lies: a map file for HAProxy, on standard output.

    Tasks that share components lie together, balanced by bytes.
    """
    opened = ModelStore(store)
    found = place([_member(opened, item) for item in opened.served()], replicas)
    typer.echo(_map(found), nl=False)


def _member(store: ModelStore, item: Published) -> Member:
    versions, _ = store.newest(item.task, EVERY)
    since = min([version.created for version in versions], default=item.created)
    sizes = {digest: item.sizes[name] for name, digest in item.path.components.items()}
    return Member(item.task, since, sizes)


def _map(found: Placement) -> str:
    counts = Counter(found.tasks.values())
    lines = [
        f"# replica{number + 1}: {counts[number]} tasks, {decimal(size)}"
        for number, size in enumerate(found.bytes)
    ]
    lines += [f"{task} replica{number + 1}" for task, number in sorted(found.tasks.items())]
    return "".join(f"{line}\n" for line in lines)
