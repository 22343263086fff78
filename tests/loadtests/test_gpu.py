"""The script for accelerators: its ways to compute many tasks are right, and it says of each
measurement either figures or why there are none. What it measures is for a machine that has one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loadtests.gpu import report
from loadtests.gpu.gateway import NotMeasured
from loadtests.gpu.grouped import gathered, ragged
from loadtests.gpu.plans import TINY, images_of, is_own, random_params, random_tree
from vit import shapes
from vit.forward import forward

TOP = Path(__file__).parents[2]
FIGURES = {"images_per_s": {"1": 10.0, "4": 9.0}, "of_one_task": {"1": 1.0, "4": 0.9}}


def test_rows_of_many_tasks_get_the_answers_of_their_own_networks() -> None:
    of_row = np.array([0, 0, 2, 2, 2])  # no row of task 1
    params = random_params(TINY)
    own = {name: random_tree(shapes(TINY, name), 7, (3,)) for name in params if is_own(name)}
    images = images_of(TINY, len(of_row))
    told = {gathered: jnp.asarray(of_row), ragged: jnp.asarray(np.bincount(of_row, minlength=3))}
    found = {way: np.asarray(jax.jit(partial(way, TINY))(params, own, told[way], images))
             for way in told}  # fmt: skip
    alone = jax.jit(partial(forward, TINY))
    for row, task in enumerate(of_row):
        mine = {name: jax.tree.map(lambda leaf, t=task: leaf[t], own[name]) for name in own}
        expected = alone({**params, **mine}, images[row][None])[0]
        for answers in found.values():
            np.testing.assert_allclose(answers[row], expected, atol=1e-5, rtol=0)
    assert found[gathered].std() > 0.01


def run_of(monkeypatch: pytest.MonkeyPatch, seconds: float, **measured: Any) -> dict[str, Any]:
    """What is told when these are the measurements."""
    monkeypatch.setattr(report, "_measurements", lambda plan, peak: measured)
    return report.measure(rehearse=True, seconds=seconds, say=lambda what: None)


def test_one_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("RESOURCE_EXHAUSTED")

    def lacking() -> Any:
        raise NotMeasured("uvicorn is not installed")

    found = run_of(monkeypatch, 60, a=broken, b=lacking, c=lambda: dict(FIGURES))
    assert found["a"]["not measured"] == "RuntimeError: RESOURCE_EXHAUSTED"
    assert found["b"]["not measured"] == "uvicorn is not installed"
    assert found["c"]["of_one_task"] == {"1": 1.0, "4": 0.9}
    told = report.table(json.loads(json.dumps(found)))
    assert "c" in told.split("of_one_task")[0].splitlines()[-1]
    assert "1: 1, 4: 0.9" in told
    assert "uvicorn is not installed" in told


def test_what_there_is_no_time_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_of(monkeypatch, 0, a=lambda: dict(FIGURES))
    assert found["a"] == {"not measured": "the 0 s were over"}


@pytest.mark.slow
def test_a_rehearsal_measures_everything(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "loadtests/gpu", "--rehearse", "--json", str(out)]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    measured = {name: told for name, told in found.items() if isinstance(told, dict)}
    assert len(measured) == 6
    assert not [told for told in measured.values() if "not measured" in told], done.stdout
    assert found["equality, tiny"]["batched_with_strangers_and_alone"] < 1e-5
    assert found["equality, tiny"]["device_and_cpu_at_highest_precision"] < 1e-5
