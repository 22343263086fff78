"""`munet export`: writes a task of a store for other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from evolution.adopting.export_errors import ExportError, OccupiedFolder
from model_store import ModelStore, Published, StoreError

ERRORS = (ExportError, OccupiedFolder, StoreError)
HF = "hf:"
app = typer.Typer(add_completion=False)


@app.command()
def export(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of the task in the store.")],
    to: Annotated[str, typer.Option("--to", metavar="hf:DIR", help="The folder to write.")],
    store: Annotated[
        str, typer.Option("--store", envvar="MUNET_STORE", help="Directory or URL of the store.")
    ],
    version: Annotated[
        int | None, typer.Option(help="Version; by default the live one.", show_default=False)
    ] = None,
    private: Annotated[
        bool,
        typer.Option("--private", help="Allow a private task; the card says that it is private."),
    ] = False,
) -> None:
    """Writes a task as a Hugging Face folder: config, safetensors, labels, model card.

    transformers opens it without munet and gives the same logits. PyTorch's exporter makes ONNX of
    it. To move tasks between stores, with sharing and versions, use instead:
    munet store export --oci DIR, or push to a registry.
    """
    if not to.startswith(HF) or to == HF:
        raise ExportError(f"--to: expected hf:DIR, such as hf:exported/flowers; found {to!r:.60}")
    opened = ModelStore(store)
    published = opened.resolve(task, version)
    from evolution.adopting.export_facts import is_private

    if is_private(opened, published) and not private:
        raise ExportError(
            f"task {task!r} is private: expected --private too, found no such flag\n"
            "who gets the folder gets the task: ask who owns the data first"
        )
    folder = Path(to.removeprefix(HF)).expanduser().absolute()
    size = _written(opened, published, folder)
    typer.echo(f"{folder}: {task} v{published.version}, {decimal(size)}; what it is: README.md")


def _written(store: ModelStore, published: Published, folder: Path) -> int:
    """Writes the folder; the number of its bytes."""
    from evolution.adopting.export import write

    write(store, published, folder)
    return sum(file.stat().st_size for file in folder.iterdir())
