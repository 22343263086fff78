"""`munet adopt`: makes a fine-tuned ViT of another library a task of a store."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from evolution.adopting.errors import AdoptError
from evolution.runs.next_commands import rollback
from model_store import ModelStore, StoreError
from model_store.names import require_name

if TYPE_CHECKING:
    from evolution.adopting.models import Model
    from evolution.adopting.publishing import Adopted

ERRORS = (AdoptError, StoreError)
KINDS = {"hf": "hf:DIR", "timm": "timm:FILE", "augreg": "augreg:FILE"}
LARGEST_LABELS = 16 << 20  # bytes of a file
SHOWN_LABELS, SHOWN_TASKS = 4, 4
app = typer.Typer(add_completion=False)


@app.command()
def adopt(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of the task in the store.")],
    place: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PLACE",
            help="hf:DIR (a folder of transformers, or of PEFT), timm:FILE (.safetensors with its "
            "config.json), or augreg:FILE (.npz).",
        ),
    ],
    store: Annotated[
        str, typer.Option("--store", envvar="MUNET_STORE", help="Directory or URL of the store.")
    ],
    base: Annotated[
        str | None,
        typer.Option(metavar="hf:DIR", help="The network that a PEFT folder adapts."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A file of labels, one a line; replaces its own.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="No other task may start from it.")
    ] = False,
) -> None:
    """Publishes a fine-tuned ViT as a task, with its head, labels and preprocessing.

    It answers as in its own library, to 1e-4 of a logit. Equal arrays are stored once: twenty
    heads on one frozen backbone take the room of one backbone.
    """
    require_name("task", task)
    model = _read(place, base, labels)
    from evolution.adopting.publishing import publish

    done = publish(ModelStore(store, create=True), task, model, private=private)
    _show(done, place, store)


def _read(place: str, base: str | None, labels: Path | None) -> Model:
    from evolution.adopting import augreg, hugging_face, peft, timm

    kind, path = _place("--from", place, tuple(KINDS))
    own = None if labels is None else _labels(labels)
    adapts = kind == "hf" and peft.is_adapter(path)
    if base is not None and not adapts:
        raise AdoptError(
            f"--base: is that of a PEFT folder: expected {peft.CONFIG} in {path}; found none"
        )
    if adapts:
        return peft.read(path, None if base is None else _place("--base", base, ("hf",))[1], own)
    return {"hf": hugging_face, "timm": timm, "augreg": augreg}[kind].read(path, own)


def _place(option: str, place: str, kinds: tuple[str, ...]) -> tuple[str, Path]:
    kind, colon, path = place.partition(":")
    if kind not in kinds or not colon or not path:
        expected = ", ".join(KINDS[known] for known in kinds)
        raise AdoptError(f"{option}: expected {expected}; found {place!r:.100}")
    return kind, Path(path).expanduser()


def _labels(file: Path) -> list[str]:
    try:
        if file.stat().st_size > LARGEST_LABELS:
            raise AdoptError(f"{file}: expected labels, one a line; found more than 16 MiB")
        with file.open(encoding="utf-8-sig") as lines:
            return [line.removesuffix("\n") for line in lines]
    except UnicodeDecodeError as error:
        raise AdoptError(f"{file}: expected labels in UTF-8, one a line; found {error}") from None


def _show(done: Adopted, place: str, store: str) -> None:
    console = Console(emoji=False, highlight=False, markup=False)
    published, model = done.published, done.model
    new = "" if done.added else ", which is there already and live"
    console.print(f"{published.task} v{published.version}: {model.told['class']}{new}")
    console.print(f"from {place}", soft_wrap=True)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in _rows(done):
        table.add_row(name, value)
    console.print(table)
    if done.added and done.former is not None:
        back = rollback(published.task, done.former, store)
        console.print(f"back to v{done.former}: {back}", soft_wrap=True)
    console.print(f"serve it: munet serve --store {shlex.quote(store)}", soft_wrap=True)
    console.print(
        f"ask it:   curl -s --data-binary @PICTURE http://127.0.0.1:3000/classify/{published.task}",
        soft_wrap=True,
    )


def _rows(done: Adopted) -> list[tuple[str, str]]:
    from evolution.data.printing import one_line

    arch, path = done.model.architecture, done.published.path
    labels = ", ".join(map(one_line, path.labels[:SHOWN_LABELS]))
    more = f" and {len(path.labels) - SHOWN_LABELS} more" * (len(path.labels) > SHOWN_LABELS)
    tokens = f"{arch.prefix_tokens} other token{'s' * (arch.prefix_tokens != 1)}"
    rows = [
        (
            "network",
            f"{arch.num_layers} blocks, width {arch.width}, {arch.heads} heads, "
            f"{arch.activation}, {arch.grid**2} patches of {arch.patch_size} and {tokens}",
        ),
        ("classes", f"{len(path.labels)}: {labels}{more}"),
        ("input", _input(done)),
        ("parameters", f"{path.parameters['total']:,} in {len(path.components)} components"),
        ("stored", _stored(done)),
    ]
    if path.private:
        rows.append(("private", "no other task starts from it"))
    return rows


def _input(done: Adopted) -> str:
    told = done.published.path.input
    size = told["size"]
    if "resize_to" not in told:
        return f"{size} x {size}, {told['resize']}, scaled to -1 .. 1"
    edges = told["resize_to"]
    resized = f"{edges[0]} x {edges[1]}" if isinstance(edges, list) else f"{edges} (shorter edge)"
    mean, std = (
        ", ".join(f"{x:.4g}" for x in dict.fromkeys(told[name])) for name in ("mean", "std")
    )
    cut = f", {size} x {size} cut from the middle" if edges != [size, size] else ""
    return f"resized to {resized}, {told['resize']}{cut}; mean {mean}; std {std}"


def _stored(done: Adopted) -> str:
    added = f"{_size(done.added_bytes)} added, {_size(done.shared_bytes)} there before"
    if not done.shared:
        return added
    shown = [f"{task} ({_size(size)})" for task, size in list(done.shared.items())[:SHOWN_TASKS]]
    left = len(done.shared) - len(shown)
    return f"{added}; shared with {', '.join(shown)}" + f" and {left} more tasks" * (left > 0)


def _size(count: int) -> str:
    return decimal(count) if count else "nothing"
