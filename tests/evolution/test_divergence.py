"""A child whose training diverged is recorded, and neither kept nor published."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from evolution.events import ChildTrained, TaskFailed
from evolution.population import ROOT
from evolution.training.programs import LARGEST_WEIGHT
from model_store import ModelStore
from tests.evolution.agent_systems import THREE, run, tiny_classes
from tests.evolution.systems import TINY, start, tiny


def with_rate(rate: float) -> dict:
    return {**TINY.defaults, "opt_lr": rate}


def assert_sane(store: ModelStore) -> None:
    """All that the store holds is what the root and healthy training make."""
    for name in store.agents():
        document = store.load_agent(name)
        assert document is not None
        for row in document["components"]:
            for leaf in jax.tree.leaves(store.component(row["digest"])):
                assert (np.abs(leaf) <= LARGEST_WEIGHT).all()


@pytest.mark.parametrize("rate", [1e7, 1e12, 1e19, 1e24, 1e30, 1e36, 1e38])
def test_a_child_with_monstrous_weights_is_not_kept(tmp_path, rate):
    """Its weights are finite, and its answers may be too; no training that works has such."""
    wild = tiny(defaults=with_rate(rate), ranges={}, passes=1, tasks=("toy/a",))
    events = list(start(tmp_path, wild).run())
    outcomes = [event.outcome for event in events if isinstance(event, ChildTrained)]
    assert len(outcomes) == wild.samples_per_task
    for outcome in outcomes:
        assert outcome.diverged and not outcome.improved and outcome.child.quality == 0
        assert outcome.parent.task == ROOT
    assert isinstance(events[-1], TaskFailed)
    store = ModelStore(tmp_path)
    assert store.tasks() == []
    document = store.load_agent(TINY.name)
    assert document is not None
    history = [row for row in document["history"]]
    archived = document["archive"]
    assert history or archived
    assert_sane(store)


def test_the_record_of_a_diverged_child_has_its_hyperparameters(tmp_path):
    search = start(tmp_path, tiny(defaults=with_rate(1e30), ranges={}, passes=1, tasks=("toy/a",)))
    list(search.run())
    for row in search.progress.history:
        assert row["diverged"] and not row["improved"] and not row["new_best"]
        assert row["quality"] == 0 and row["hyperparameters"]["opt_lr"] == 1e30


def test_good_rounds_before_it_diverged_do_not_save_a_child(tmp_path):
    """Where the rate restarts or warms up, the first rounds may be fine."""
    search = start(tmp_path, tiny(
        defaults={**with_rate(1e9), "opt_lr_warmup_ratio": 1.0}, ranges={}, passes=1,
        rounds_per_child=3, tasks=("toy/a",), method=replace(TINY.method, warmup_start=1e-9),
    ))  # fmt: skip
    list(search.run())
    assert all(row["diverged"] for row in search.progress.history)
    assert search.population.paths.get("toy/a", []) == []


def test_an_agents_child_that_diverged_is_not_kept(tmp_path):
    wild = replace(THREE, defaults=with_rate(1e30), ranges={})
    store = ModelStore(tmp_path, create=True)
    with tiny_classes():
        from evolution.agents import kinds

        kinds.CLASSES = {"three": kinds.AgentClass(wild)}  # type: ignore[assignment]
        events = run(store, "three:toy/a")
    assert isinstance(events[-1], TaskFailed)
    assert store.tasks() == []
    assert_sane(store)


def test_a_healthy_run_has_no_diverged_child(tmp_path):
    search = start(tmp_path, tiny(passes=1))
    list(search.run())
    assert not any(row["diverged"] for row in search.progress.history)
