"""The store's commands together: `munet store --help`."""

import logging

import typer

from model_store import StoreError
from model_store.cli import changing, looking, rolling_out, signing, transfer, verifying

ERRORS = (StoreError,)
app = typer.Typer(
    help="Look at, look after and exchange stores of multitask models.",
    no_args_is_help=True,
    add_completion=False,
)
for part in (looking, verifying, changing, rolling_out, transfer, signing):
    app.add_typer(part.app)


def main() -> None:
    """Runs a command without `munet`; an error is one line and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        app(prog_name="python -m model_store")
    except (*ERRORS, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None
