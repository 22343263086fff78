"""The command lines: what a user sees of results and of mistakes."""

import subprocess
import sys

import jax
import pytest

from evolution import state
from evolution.__main__ import console, main
from evolution.reports.measures import standings
from evolution.reports.stored_runs import load
from evolution.run import Run
from model_store import ModelStore
from tests.evolution.systems import start


@pytest.fixture
def evolution(capsys, monkeypatch, tmp_path):
    """Runs the command line in this process: (exit code, all it printed)."""
    monkeypatch.setattr(console, "_width", 400)
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["evolution", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The store of a whole run."""
    folder = tmp_path_factory.mktemp("finished")
    list(start(folder).run())
    return ModelStore(folder)


def test_the_leaderboard_shows_every_published_task(evolution, finished):
    store = finished
    code, shown = evolution("leaderboard", "--store", store.url)
    assert code == 0
    for task in store.tasks():
        (line,) = (line for line in shown.splitlines() if task in line)
        path = store.resolve(task).path
        assert f"{path.metrics['test']['accuracy']:.4f}" in line
        assert ("(private)" in line) == path.private


def test_the_leaderboard_counts_what_tasks_share_now_as_the_analysis_does(evolution, finished):
    """A version tells what was shared when it was published; later tasks share more."""
    store = finished
    (run,) = state.runs(store)
    found = {line.task: line.accounted_params for line in standings(load(store, run))}
    assert any(
        f"{store.resolve(task).path.parameters['accounted']:,.0f}" != f"{count:,.0f}"
        for task, count in found.items()
    )
    _, shown = evolution("leaderboard", "--store", store.url)
    for task, count in found.items():
        (line,) = (line for line in shown.splitlines() if task in line)
        assert f" {count:,.0f} " in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["leaderboard", "--store", "/nonexistent"], "opening the store /nonexistent"),
        (["resume", "demo", "--store", "/nonexistent"], "opening the store /nonexistent"),
        (["run", "demo", "--store", "/proc/nonexistent"], "/proc/nonexistent"),
        (["prepare", "No such?"], "No such?"),
        (["import", "/nonexistent", "--store", "/tmp"], "/nonexistent"),
        (["analyse", "--store", "/nonexistent", "--out", "/tmp"], "/nonexistent"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(evolution, arguments, message):
    code, printed = evolution(*arguments)
    assert code == 1
    assert message in printed and "Traceback" not in printed


def test_as_a_program_of_its_own_it_ends_in_the_same_way():
    result = subprocess.run(
        [sys.executable, "-m", "evolution", "leaderboard", "--store", "/nonexistent"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1 and "opening the store /nonexistent" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_experiment_names_the_nearest(evolution, tmp_path):
    code, printed = evolution("run", "munet-cmater", "--store", str(tmp_path))
    assert code == 2 and "did you mean munet-cmaterdb" in printed and "--help" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demo", "--set", "batchsize=1"], "batch_size"),
        (["run", "demo", "--set", "batch_size=many"], "JSON"),
        (["run", "demo", "--set", "ranges={}"], "there is no such key; did you mean"),
        (["baseline", "freeze", "demo"], "freeze:N"),
        (["baseline", "thaw:1", "demo"], "finetune-all"),
    ],
)
def test_a_wrong_option_says_what_is_expected(evolution, arguments, message, tmp_path):
    code, printed = evolution(*arguments, "--store", str(tmp_path))
    assert code == 2
    assert message in printed


@pytest.mark.parametrize(
    "error",
    [MemoryError("unable to allocate"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 5 GB")],
)
def test_running_out_of_memory_names_the_setting_to_lower(evolution, monkeypatch, tmp_path, error):
    def exhausted(*_, **__):
        raise error

    monkeypatch.setattr(Run, "run", exhausted)
    code, printed = evolution("run", "demo", "--store", str(tmp_path / "store"))
    assert code == 1 and "--set batch_size=" in printed and "Traceback" not in printed
