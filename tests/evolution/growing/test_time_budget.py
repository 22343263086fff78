"""The time that a growth may take: how it is given, and what it lets begin and end."""

import numpy as np
import pytest

from evolution.events import ChildTrained, Remark
from evolution.growing.options import GrowthError, budget_of
from evolution.process.time_budget import Budget
from model_store import ModelStore
from tests.evolution.growing.clocks import Clock
from tests.evolution.systems import published, start, tiny


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("90", 90), (None, None)]
)
def test_a_budget_is_a_time(text, seconds):
    assert budget_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-5m", "ten", "5 m 3 s", "1e9h", "nan"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(GrowthError, match="90s, 10m or 2h"):
        budget_of(text)


def test_a_budget_always_lets_one_child_train_to_its_end():
    clock = Clock()
    budget = Budget(10, clock=clock)
    clock.now = 100
    assert budget.allows_child() and budget.allows_step()
    budget.children_done(1)
    assert not budget.allows_child() and not budget.allows_step()
    assert budget.remark and "too short" in budget.remark


def test_a_baseline_may_be_cut_in_its_first_child():
    clock = Clock()
    budget = Budget(10, clock=clock, first_whole=False)
    assert budget.allows_step()
    clock.now = 11
    assert budget.allows_child() and not budget.allows_step()


def test_a_child_begins_only_if_the_quickest_would_have_fitted():
    clock = Clock()
    budget = Budget(10, clock=clock)
    for clock.now in (4, 7):
        budget.children_done(1)
        assert budget.allows_child()
    clock.now = 7.5
    assert budget.allows_step() and not budget.allows_child()


def test_what_a_run_took_before_it_was_stopped_counts():
    clock = Clock()
    clock.now = 1000
    budget = Budget(10, [{"seconds": 4}, {"seconds": 3}], clock)
    assert budget.allows_child()
    clock.now = 1001
    assert not budget.allows_child()


def test_whether_somebody_looks_on_changes_no_bit(tmp_path):
    settings = tiny(tasks=("toy/a",), passes=1, samples_per_task=2)
    list(start(tmp_path / "alone", settings).run())
    watched, seen = start(tmp_path / "watched", settings), []
    watched.on_steps = lambda *told: seen.append(told)
    watched.set_budget(1e9)
    list(watched.run())
    assert published(ModelStore(tmp_path / "watched")) == published(ModelStore(tmp_path / "alone"))
    assert {of for _, of, _ in seen} == {4} and all(np.isfinite(loss) for *_, loss in seen)


def test_a_search_ends_by_its_budget_and_publishes_the_best_so_far(tmp_path):
    """Each look at the clock takes a second: some children fit, and the last one is cut."""
    asked = tiny(tasks=("toy/a", "toy/b"), samples_per_task=50, passes=1, rounds_per_child=20)
    search = start(tmp_path, asked)
    search.clock = Clock(step=1)
    search.set_budget(60)
    events = list(search.run())
    assert ModelStore(tmp_path).tasks() == ["toy/a", "toy/b"]
    for task in ("toy/a", "toy/b"):
        trained = [e.outcome for e in events if isinstance(e, ChildTrained) and e.task == task]
        assert 1 < len(trained) < 50
        assert trained[0].training["steps"] == 40
        assert all(outcome.training["steps"] <= 40 for outcome in trained)
    assert any(isinstance(e, Remark) and "used up" in e.text for e in events)
