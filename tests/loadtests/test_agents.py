"""The model of many agents: its laws, and what it is calibrated with."""

from dataclasses import replace

import pytest

from evolution.state import StateError
from loadtests.agents.measuring import Child, measure
from loadtests.agents.observed import observed
from loadtests.agents.simulation import SAVES, Cost, Costs, Work, simulate
from model_store import ModelStore
from tests.evolution.made_up_run import MadeUpRun

FREE = Costs(*[Cost(0.0, 0.0)] * 15)
WORK = Work(child_seconds=[2.0], foreign=0.0, kept=1.0, published=1.0, generations=4, children=2)


@pytest.mark.parametrize("agents", [1, 7, 40])
def test_a_store_that_costs_nothing_leaves_every_agent_at_its_own_speed(agents):
    result = simulate(agents, FREE, replace(WORK, child_seconds=[1.0, 2.0, 3.0]), cycles=50)
    assert result.rate == pytest.approx(result.ideal_rate, rel=0.03)
    assert result.store_share == result.load == result.conflicts == 0


def test_one_agent_takes_the_sum_of_its_steps():
    costs = replace(FREE, load=Cost(0.5, 0.1), publish=Cost(3.0, 0.1), save=Cost(0.25, 0.1))
    result = simulate(1, costs, replace(WORK, kept=0.0), cycles=500)
    cycle_s = 8 * (2.0 + 0.5) + 3.0 + (4 + SAVES + 1) * 0.25
    assert result.rate == pytest.approx(8 / cycle_s, rel=0.01)
    assert result.store_share == pytest.approx(1 - 16 / cycle_s, rel=0.01)


def test_calls_beyond_the_capacity_slow_down_to_it():
    costs = replace(FREE, put=Cost(0.1, 0.05))  # 20 children a second
    few, many = (simulate(n, costs, WORK, cycles=30) for n in (20, 200))
    assert few.rate == pytest.approx(20 / 2.1, rel=0.03)
    assert many.rate == pytest.approx(20, rel=0.03)
    assert many.load == pytest.approx(1.0, abs=0.03)


def test_every_version_is_announced_once_however_many_agents_announce():
    costs = replace(FREE, read=Cost(0.1, 0.0), replace=Cost(0.4, 0.0))
    result = simulate(200, costs, WORK, cycles=10, per_task=200)
    assert result.retries > 1
    # One write at a time: no more versions than fit one after the other.
    assert 0.8 * result.seconds < 0.5 * result.publications < 1.3 * result.seconds
    assert simulate(1, costs, WORK, cycles=20).conflicts == 0


def test_a_cycle_costs_what_was_published_since_the_one_before():
    """The same for ten times as many agents, if as many publish; nothing if none does."""
    costs = replace(FREE, new=Cost(0.001, 0.0), add=Cost(0.001, 0.0))
    for agents in (10, 100):
        quiet = simulate(agents, costs, replace(WORK, published=0.0), cycles=10)
        assert quiet.calls["new"] == quiet.calls["add"] == 0
        cycles = agents * 10
        for publish in (3, 9):  # a cycle, of all agents
            work = replace(WORK, published=publish / agents)
            found = simulate(agents, costs, work, cycles=10)
            assert found.publications == pytest.approx(10 * publish, rel=0.5)
            # Read by the first to look: a path and its momenta. The others read the index.
            assert found.calls["new"] == pytest.approx(2 * found.publications, rel=0.4)
            assert found.calls["part"] < cycles * (1 + 2.5 * publish)


def test_renewed_leases_take_their_part_of_the_store():
    costs = replace(FREE, put=Cost(0.1, 0.05), read=Cost(0.0, 0.01), renewals=0.25)
    halved = simulate(200, costs, WORK, cycles=100)
    assert halved.rate == pytest.approx(10, rel=0.03)


def test_the_same_seed_gives_the_same_result():
    costs = replace(FREE, read=Cost(0.1, 0.1), replace=Cost(0.4, 0.1))
    assert simulate(30, costs, WORK) == simulate(30, costs, WORK)


def test_children_are_those_of_the_runs(tmp_path):
    store = ModelStore(tmp_path, create=True)
    run = MadeUpRun(tasks=2, children=5)
    run.save(store, "made-up", seed=0)
    rows = run.history
    work, child = observed(store)
    assert work.child_seconds == [row["seconds"] for row in rows]
    assert (work.generations, work.children) == (5, 1)
    assert 0 < work.foreign < 1
    assert work.kept == sum(row["improved"] for row in rows) / len(rows)
    assert work.published == 1.0
    assert 0 < child.trained <= child.components
    assert 0 < child.trained_bytes <= 4 * max(row["total_params"] for row in rows)


def test_a_store_without_children_is_told(tmp_path):
    with pytest.raises(StateError, match="expected the history of a run or an agent, found none"):
        observed(ModelStore(tmp_path, create=True))


@pytest.mark.slow
def test_a_store_is_measured_and_removed(tmp_path):
    costs = measure(f"{tmp_path}/new", Child(3, 2, 2000), seconds=0.05)
    assert costs.put.seconds > costs.read.seconds > 0
    assert costs.renewals == 0
    assert not any(path.is_file() for path in (tmp_path / "new").rglob("*"))


def test_what_is_there_is_not_measured(tmp_path):
    ModelStore(tmp_path, create=True)
    with pytest.raises(ValueError, match="there is something already"):
        measure(str(tmp_path), Child(3, 2, 2000))
    assert ModelStore(tmp_path).tasks() == []
