"""Commands that move versions between stores, OCI image layouts and registries."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from model_store.cli.printing import Store
from model_store.errors import ExchangeError
from model_store.exchange.oci_layout import LayoutPlace
from model_store.exchange.registry import Reference, RegistryPlace
from model_store.exchange.transfer import Place, StorePlace, transfer
from model_store.store import ModelStore
from model_store.upkeep.backup import backup
from model_store.upkeep.repair import BlobSource, StoreSource

app = typer.Typer()

_LAYOUT, _REGISTRY = "oci:", "docker://"
SHOWN = 20  # problems; all others are counted

Oci = Annotated[str, typer.Option("--oci", help="Directory of an OCI image layout.")]
Repository = Annotated[str, typer.Argument(help="REGISTRY/REPOSITORY[:TAG].")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Only this task; may be repeated.")]
History = Annotated[
    bool, typer.Option("--history", help="Every version, oldest first, not the live one alone.")
]
PlainHttp = Annotated[
    bool, typer.Option("--plain-http", help="No TLS, though the registry is another machine.")
]
Anywhere = Annotated[
    str, typer.Argument(help="A store, oci:DIRECTORY, or docker://REGISTRY/REPOSITORY[:TAG].")
]


@app.command("export")
def export_layout(store: Store, oci: Oci, task: Tasks = None, history: History = False) -> None:
    """Write tasks to an OCI image layout: an empty folder, or one that is a layout."""
    _move(StorePlace(ModelStore(store)), _layout(oci), task, history, "sent")


@app.command("import")
def import_layout(store: Store, oci: Oci, task: Tasks = None, history: History = False) -> None:
    """Add tasks from an OCI image layout."""
    source = _layout(oci)
    _move(source, StorePlace(ModelStore(store, create=True)), task, history, "received")


@app.command()
def push(
    repository: Repository,
    store: Store,
    task: Tasks = None,
    history: History = False,
    plain_http: PlainHttp = False,
) -> None:
    """Upload tasks to a registry: of their blobs only what it lacks."""
    target = RegistryPlace(
        Reference.parse(repository.removeprefix(_REGISTRY)), plain_http=plain_http
    )
    _move(StorePlace(ModelStore(store)), target, task, history, "sent")


@app.command()
def pull(
    repository: Repository,
    store: Store,
    task: Tasks = None,
    history: History = False,
    plain_http: PlainHttp = False,
) -> None:
    """Add tasks from a registry: of their blobs only what the store lacks."""
    source = RegistryPlace(
        Reference.parse(repository.removeprefix(_REGISTRY)), plain_http=plain_http
    )
    _move(source, StorePlace(ModelStore(store, create=True)), task, history, "received")


@app.command()
def copy(
    source: Anywhere,
    destination: Anywhere,
    task: Tasks = None,
    history: History = False,
    plain_http: PlainHttp = False,
) -> None:
    """Copy tasks between any two stores, OCI image layouts and registries."""
    there = _place(source, plain_http, create=False)
    _move(there, _place(destination, plain_http, create=True), task, history, "sent")


@app.command("backup")
def back_up(
    source: Annotated[str, typer.Argument(help="The store to be copied.")],
    destination: Annotated[str, typer.Argument(help="A backup of it, or an empty place.")],
) -> None:
    """Bring a second copy of a whole store up to date, or restore one to an empty place."""
    began = time.monotonic()
    report = backup(source, destination)
    for problem in report.problems[:SHOWN]:
        typer.echo(f"error: {problem}", err=True)
    typer.echo(
        f"{'a new copy: ' if report.made else ''}"
        f"{report.copied_documents} of {report.documents} documents and {report.copied_blobs}"
        f" blobs ({decimal(report.copied_bytes)}) copied in {time.monotonic() - began:.1f} s"
    )
    if report.problems:
        raise ExchangeError(f"{len(report.problems)} documents are not backed up")


def blob_source(text: str) -> BlobSource:
    """What a repair may take blobs from. Raises StoreError."""
    if text.startswith(_LAYOUT):
        return _layout(text)
    if text.startswith(_REGISTRY):
        return RegistryPlace(Reference.parse(text.removeprefix(_REGISTRY)))
    return StoreSource(text)


def _layout(text: str) -> LayoutPlace:
    return LayoutPlace(Path(text.removeprefix(_LAYOUT)))


def _place(text: str, plain_http: bool, *, create: bool) -> Place:
    if text.startswith(_LAYOUT):
        return _layout(text)
    if text.startswith(_REGISTRY):
        reference = Reference.parse(text.removeprefix(_REGISTRY))
        return RegistryPlace(reference, plain_http=plain_http)
    return StorePlace(ModelStore(text, create=create))


def _move(
    source: Place, destination: Place, tasks: list[str] | None, history: bool, done: str
) -> None:
    report = transfer(source, destination, tasks or (), history=history)
    typer.echo(
        f"{report.versions} versions: {report.moved_blobs} blobs ({decimal(report.moved_bytes)})"
        f" {done}, {report.present_blobs} blobs ({decimal(report.present_bytes)}) already there"
    )
