"""Options that several commands of `munet experiments` share."""

from __future__ import annotations

from typing import Annotated

import typer

StoreOption = Annotated[
    str, typer.Option("--store", envvar="MUNET_STORE", help="Directory or URL of the store.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in batch_size=64."),
]
LongOption = Annotated[
    bool, typer.Option("--long", help="Also start what would take months.", show_default=False)
]
