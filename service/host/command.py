"""`munet serve`: the gateway on a store, until Ctrl-C."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from service.errors import SettingsError
from service.host import CANNOT_START, GREETING
from service.memory import require_enough
from service.settings import Settings

app = typer.Typer(add_completion=False)
TOP = Path(__file__).parents[2]  # the checkout, or the folder where the packages are installed
GATEWAY = "service.host.gateway:Gateway"
OF_OTHER_COMMANDS = ("MUNET_TOKEN",)  # the gateway would take it for a misspelt MUNET_TOKENS


@app.command(epilog="Further settings are environment variables: service/README.md lists them.")
def serve(
    store: Annotated[
        str, typer.Option(envvar="MUNET_STORE", help="Directory or URL of the store.")
    ],
    port: Annotated[
        int,
        typer.Option(min=1, max=65535, envvar="BENTOML_PORT", help="The port that it answers on."),
    ] = 3000,
) -> NoReturn:
    """Serves every task of a store over HTTP, and says when it is ready."""
    environment = {name: text for name, text in os.environ.items() if name not in OF_OTHER_COMMANDS}
    environment |= {"MUNET_STORE": store, GREETING: "1", "BENTOML_DO_NOT_TRACK": "True"}
    try:  # BentoML takes memory before it asks whether the gateway may start
        require_enough(Settings.from_environment(environment))
    except SettingsError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(CANNOT_START) from None
    environment.setdefault("BENTOML_HOME", str(_state() / f"bentoml-{port}"))
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    # It becomes this process: signals and exit codes are its own.
    command = [bentoml, "serve", GATEWAY, "--working-dir", str(TOP), "--port", str(port)]
    os.execve(bentoml, command, environment)


def _state() -> Path:
    """Where BentoML may keep files of its own."""
    if (TOP / "bentofile.yaml").is_file():
        return TOP / "build"
    return Path.home() / ".cache" / "munet"
