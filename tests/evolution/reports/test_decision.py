"""Which of several experiments is best: paired by task and seed, with intervals over tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from evolution.population import Population, Score
from evolution.reports import comparison_page, figures
from evolution.reports.decision import COLUMNS, cells, decision, difference, table_of
from evolution.reports.measures import RunRecord, run_of
from evolution.reports.stored_runs import analyse
from model_store import ModelStore
from tests.evolution.made_up_run import MadeUpRun

EMPTY = run_of("r", "e", 0, [], Population(Score()))


def runs(tests: dict[str, list[float | None]]) -> list[RunRecord]:
    """A run for each seed, with the test qualities of its tasks."""
    seeds = range(max(map(len, tests.values())))
    return [
        replace(EMPTY, seed=seed, test={t: v[seed] for t, v in tests.items() if seed < len(v)})
        for seed in seeds
    ]


def test_an_interval_is_that_of_students_paired_test_over_tasks() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 6, 3))  # six tasks, three seeds
    one, other = (
        runs({f"t{i}": list(map(float, row)) for i, row in enumerate(values)})
        for values in (first, second)
    )
    found = difference(one, other)
    assert found is not None and found.tasks == 6
    wanted = stats.ttest_rel(first.mean(1), second.mean(1)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.mean == pytest.approx((first - second).mean())
    assert found.better == int((first.mean(1) > second.mean(1)).sum())


def test_only_tasks_and_seeds_that_both_have_are_compared() -> None:
    one = runs({"a": [0.9, 0.8], "b": [0.7, None], "only here": [0.1]})
    other = runs({"a": [0.6], "b": [0.5, 0.1], "only there": [1.0]})
    found = difference(one, other)
    assert found is not None and found.tasks == 2
    assert found.mean == pytest.approx((0.3 + 0.2) / 2)
    assert difference(one, runs({"only there": [1.0]})) is None


def test_of_one_task_there_is_no_interval() -> None:
    (_, line) = decision({"one": runs({"a": [0.9, 0.8]}), "other": runs({"a": [0.6, 0.7]})})
    assert line.behind is not None and line.behind.low is None
    assert cells(line) == ("0.6500", "0.200", "-", "1 of 1", "-", "-")


def test_the_best_comes_first_and_one_without_test_qualities_last() -> None:
    none, low, high = runs({"a": [None]}), runs({"a": [0.2]}), runs({"a": [0.4]})
    lines = decision({"none": none, "low": low, "high": high})
    assert [line.experiment for line in lines] == ["high", "low", "none"]
    assert lines[0].behind is None and lines[2].behind is None
    assert cells(lines[2]) == ("-",) * len(COLUMNS)


def test_a_page_and_a_terminal_of_80_columns_show_it(tmp_path, capsys) -> None:
    groups = {"munet-chars5-published": 0.0, "finetune-all of munet-chars5": 0.1}
    found = {
        name: [replace(run, test={t: (q or 0) + gain for t, q in run.test.items()})]
        for name, gain in groups.items()
        for made in [MadeUpRun(3, 4, layers=1)]
        for run in [run_of(name, name, 0, made.history, made.population)]
    }
    lines = decision(found)
    Console(width=80).print(table_of(lines))
    told = capsys.readouterr().out
    assert "finetune-all of" in told and "0.100 to 0.100" in told and "3 of 3" in told
    with figures.style():
        flat = [run for members in found.values() for run in members]
        page = comparison_page.write(flat, {run.name: "." for run in flat}, tmp_path).read_text()
    assert "Which is best" in page and "0.100 to 0.100" in page


def test_replicas_of_one_experiment_leave_nothing_to_decide(tmp_path) -> None:
    store = ModelStore(tmp_path / "store", create=True)
    for seed in range(2):
        MadeUpRun(2, 4, layers=1, seed=seed).save(store, f"run-{seed}", seed)
    assert analyse(store, tmp_path / "out").decision == ()
