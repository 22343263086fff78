"""`munet classify`: asks a running gateway about pictures.

It ends with 0 if every picture was answered, 1 if one was not, 2 for a wrong command line. A
picture that cannot be answered leaves the others alone. What is wrong with the task, the token or
the gateway ends the command, after what was answered before is shown.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.client.client import Client
from service.client.errors import BadImage, ClientError
from service.client.retries import Retries

ERRORS = (ClientError,)
ASKED_BY_A_PERSON = Retries(unreached=False)  # who is told at once that no gateway runs
TOKEN = "MUNET_TOKEN"  # the variable that holds it: on the command line all users would see it
app = typer.Typer(add_completion=False)

UrlOption = Annotated[str, typer.Option(metavar="URL", help="Where the gateway is.")]


@app.command(epilog=f"Where a gateway wants a token, it is taken from the variable {TOKEN}.")
def classify(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task that answers.")],
    image: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="PNG, JPEG, WEBP, BMP or GIF.")
    ],
    url: UrlOption = "http://127.0.0.1:3000",
    top_k: Annotated[int, typer.Option(min=1, help="How many labels for each picture.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Asks a running gateway about pictures."""
    client = client_at(url)
    answers: list[Mapping[str, Any]] = []
    failed = False
    try:
        for file in image:
            try:
                (answer,) = client.classify(file, task, top=top_k)
                found = {"task": task, "version": answer.version}
                listed = [asdict(one) for one in answer.predictions]
                answers.append({"image": file, **found, "predictions": listed})
            except BadImage as error:
                failed = True
                answers.append({"image": file, "error": str(error)})
    finally:
        client.close()
        _print(answers, as_json)
    if failed:
        raise typer.Exit(1)


def client_at(url: str, retries: Retries = ASKED_BY_A_PERSON) -> Client:
    """A client with the token of the environment. Raises BadParameter."""
    try:
        return Client(url, os.environ.get(TOKEN, "").strip(), retries=retries)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _print(answers: list[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answers, indent=2, ensure_ascii=False))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("image", "label", "probability"):
        table.add_column(heading, overflow="fold")
    table.columns[-1].justify = "right"
    errors = Console(
        emoji=False, stderr=True, style="red", highlight=False, markup=False, soft_wrap=True
    )
    for answer in answers:
        if "error" in answer:
            errors.print(f"error: {one_line(answer['image'])}: {answer['error']}")
            continue
        name = one_line(answer["image"])
        for one in answer["predictions"]:
            table.add_row(Text(name), Text(one_line(one["label"])), f"{one['probability']:.3f}")
            name = ""
    if table.rows:  # in a pipe there is no width to fit into
        Console(emoji=False, width=None if sys.stdout.isatty() else 250).print(table)


def one_line(text: str) -> str:
    """With what would break a line, or tell a terminal to do something, made visible."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
