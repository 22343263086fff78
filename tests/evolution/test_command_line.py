"""The command lines: what a user sees of results and of mistakes."""

import os
import subprocess
import sys

import pytest

from evolution.search import Search
from model_store import ModelStore
from tests.evolution.systems import TINY, toy_task


def evolution(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "evolution", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **variables},
    )  # fmt: skip


def test_the_leaderboard_shows_every_published_task(tmp_path):
    store = ModelStore(tmp_path, create=True)
    list(Search.start(TINY, store, 0, toy_task).run())
    shown = evolution("leaderboard", "--store", str(tmp_path), COLUMNS="120").stdout
    for task in store.tasks():
        (line,) = (line for line in shown.splitlines() if task in line)
        path = store.resolve(task).path
        assert f"{path.metrics['test']['accuracy']:.4f}" in line
        assert ("(private)" in line) == path.private


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["leaderboard", "--store", "/nonexistent"], "opening the store /nonexistent"),
        (["resume", "demo", "--store", "/nonexistent"], "opening the store /nonexistent"),
        (["run", "demo", "--store", "/proc/nonexistent"], "/proc/nonexistent"),
        (["prepare", "No such?"], "No such?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(arguments, message):
    result = evolution(*arguments, COLUMNS="400")
    assert result.returncode == 1
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_an_unknown_experiment_names_those_there_are(tmp_path):
    result = evolution("run", "nonsuch", "--store", str(tmp_path), COLUMNS="200")
    assert result.returncode == 2
    assert "mu2net-cmaterdb" in result.stderr
