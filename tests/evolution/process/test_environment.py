"""What a run was computed with is recorded, and said where it changes."""

import os
from typing import Any

import pytest

from evolution import state
from evolution.events import Remark
from evolution.process import environment
from evolution.run import Run
from evolution.runs.following import line_of
from model_store import ModelStore
from tests.evolution.agent_systems import run as run_agent
from tests.evolution.agent_systems import tiny_classes
from tests.evolution.systems import TINY, start, tasks, tiny

HERE = {"cores": 2, "devices": "1 cpu (cpu)", "jax": "0.1", "jax_enable_x64": False}
ONE = tiny(tasks=("toy/a",), samples_per_task=1, passes=5)
AGENT = "three:toy/a"


class Machine:
    """What a test says that this machine is."""

    def __init__(self) -> None:
        self.now: dict[str, Any] = dict(HERE)

    def move(self, **changes: Any) -> None:
        self.now = {k: v for k, v in {**self.now, **changes}.items() if v is not None}


@pytest.fixture
def machine(monkeypatch) -> Machine:
    found = Machine()
    monkeypatch.setattr(environment, "environment", lambda: found.now)
    return found


def a_run(store: ModelStore) -> list[str]:
    """Another iteration of a run: what it remarks."""
    known = store.load_agent(ONE.name) is not None
    search = Run.resume(store, ONE.name, tasks) if known else start(store.url, ONE)
    return remarks(search)


def an_agent(store: ModelStore) -> list[str]:
    found = store.load_agent("three/toy/a")
    with tiny_classes():
        events = run_agent(store, AGENT, found["iteration"] + 1 if found else 1)
    return [line_of(event) for event in events if isinstance(event, Remark)]


def remarks(search: Run) -> list[str]:
    told = []
    for event in search.run():
        if isinstance(event, Remark):
            told.append(line_of(event))
        else:
            search.stopping = True
    return told


def recorded(store: ModelStore) -> list[dict[str, Any]]:
    (name,) = state.runs(store)
    return state.load(store, name)[0].environments


@pytest.mark.parametrize("work", [a_run, an_agent])
def test_a_run_that_is_moved_says_what_changed_once(tmp_path, machine, work):
    store = ModelStore(tmp_path, create=True)
    assert work(store) == [] and work(store) == []
    machine.move(cores=4, jax="0.2", XLA_FLAGS="--xla_x")
    (line,) = work(ModelStore(tmp_path))
    assert "cores 2 → 4, jax 0.1 → 0.2, XLA_FLAGS unset → --xla_x" in line
    assert "last digits" in line and "\n" not in line and "jax_enable" not in line
    assert work(ModelStore(tmp_path)) == []
    machine.move(XLA_FLAGS=None)
    assert "XLA_FLAGS --xla_x → unset" in work(ModelStore(tmp_path))[0]
    found = recorded(ModelStore(tmp_path))
    assert [entry["environment"].get("cores") for entry in found] == [2, 4, 4]
    told = environment.computed_with(found)
    assert told.startswith(" Computed with cores 2, devices 1 cpu (cpu), jax 0.1; from task iter")
    assert told.count("; from task iteration") == 2 and told.endswith("XLA_FLAGS --xla_x → unset.")


@pytest.mark.parametrize("work", [a_run, an_agent])
def test_a_state_without_a_record_gets_one_and_nothing_is_said(tmp_path, machine, work):
    store = ModelStore(tmp_path, create=True)
    work(store)
    (name,) = state.runs(store)
    document = store.load_agent(name)
    assert document is not None
    del document["environments"]
    store.save_agent(name, document, state.needed(document))
    machine.move(cores=64)
    assert work(store) == []
    assert [entry["environment"]["cores"] for entry in recorded(store)] == [64]


def test_a_finished_run_computes_nothing_and_says_nothing(tmp_path, machine):
    list(start(tmp_path, tiny(tasks=("toy/a",), samples_per_task=1, passes=1)).run())
    machine.move(cores=64)
    assert list(Run.resume(ModelStore(tmp_path), TINY.name, tasks).run()) == []


def test_what_is_recorded_is_of_this_process(monkeypatch):
    before = environment.environment()
    assert before["jax"] and before["processor"] and before["devices"].endswith("cpu (cpu)")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        after = environment.environment()
    finally:
        os.sched_setaffinity(0, allowed)
    told = environment.differences(before, after)
    assert "XLA_FLAGS " in told and "--xla_cpu_multi_thread_eigen=false" in told
    assert (f"cores {len(allowed)} → 1" in told) == (len(allowed) > 1)
