"""Histories of the real code in a simulated world: what was acknowledged is there at the end.

`make simulate` plays many more; a history that fails prints what was done, and its seed plays it
again.
"""

import subprocess
import sys
from pathlib import Path

import pytest

HISTORIES = 1000
TOP = Path(__file__).parents[2]


def simulate(*options: str) -> None:
    command = [sys.executable, "-m", "tests.model_store.simulation", *options]
    ended = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("first", [0, HISTORIES])
def test_nothing_acknowledged_is_lost(first: int) -> None:
    simulate("--stop", "--first", str(first), "--histories", str(HISTORIES))


@pytest.mark.slow
def test_something_is_lost_without_any_protective_step() -> None:
    simulate("--without", "all", "--known")
