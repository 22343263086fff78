"""Folders of a store whose permissions go in the middle of an operation, and come back."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unprivileged import unprivileged

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize("every", [197, pytest.param(1, marks=pytest.mark.slow)])
def test_a_folder_that_may_not_be_entered_loses_nothing(tmp_path: Path, every: int) -> None:
    (tmp_path / "original").mkdir()
    command = [sys.executable, "-m", "tests.model_store.withdrawn", str(tmp_path), str(every)]
    done = subprocess.run(
        unprivileged(command), cwd=TOP, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000 / every
