"""`python -m model_store` in this process: to start one takes longer than what it does."""

import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest

from model_store.cli.app import main


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """(exit code, output, error output) of one command, with these variables."""
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as output,
        redirect_stderr(StringIO()) as error,
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", ["model_store", *arguments])
        patch.delenv("MUNET_STORE", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, output.getvalue(), error.getvalue()
