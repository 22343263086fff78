"""Histories of the real code in a simulated world: what was acknowledged is there at the end.

`make simulate` plays many more; a history that fails prints what was done, and its seed plays it
again.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.model_store.simulation.histories import of_seed
from tests.model_store.simulation.themes import plan_of

FEW, MANY = 150, 1000
TOP = Path(__file__).parents[2]


def simulate(*options: str) -> None:
    command = [sys.executable, "-m", "tests.model_store.simulation", *options]
    ended = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("first", "histories"), [(0, FEW), pytest.param(FEW, MANY - FEW, marks=pytest.mark.slow)]
)
def test_nothing_acknowledged_is_lost(first: int, histories: int) -> None:
    simulate("--stop", "--first", str(first), "--histories", str(histories))


def test_a_history_is_the_same_on_a_slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(3796)[1]
    assert plan.place == "disk"
    first = of_seed(3796)
    scandir, sleep = os.scandir, time.sleep

    def slow(path: Any) -> Any:
        sleep(0.03)  # longer than two changes of a folder may have one time
        return scandir(path)

    monkeypatch.setattr(os, "scandir", slow)
    again = of_seed(3796)
    assert again.turns == first.turns and again.events == first.events


@pytest.mark.slow
def test_something_is_lost_without_any_protective_step() -> None:
    simulate("--without", "all", "--known")
