"""Importing into a store that has the run or the task already: what stays, what is refused."""

from pathlib import Path

import pytest

from evolution.checkpoints import CheckpointError, ImportReport, import_state
from model_store import ModelStore, TaskPath
from tests.evolution.published_states import (
    MU2NET_LAYERS,
    mu2net_entries,
    rows_of,
    write_agents,
    write_checkpoint,
    write_mu2net,
    write_table,
)


def imported(directory: Path, store: ModelStore) -> ImportReport:
    return import_state(directory, store, progress=lambda done, total: None)


def new_store(directory: Path) -> ModelStore:
    return ModelStore(directory / "store", create=True)


def publish(store: ModelStore, path: TaskPath, accuracy: float, *, live: bool, task: str) -> int:
    """A copy of the path with another accuracy; its version."""
    fields = {name: getattr(path, name) for name in TaskPath.__dataclass_fields__}
    metrics = {**path.metrics, "validation": {"accuracy": accuracy}}
    copy = TaskPath(**{**fields, "task": task, "metrics": metrics})
    return store.publish(copy, live=live).version


# ---- versions


@pytest.fixture
def store(tmp_path) -> ModelStore:
    """With components to publish, of a task that no import here is about."""
    store = new_store(tmp_path)
    imported(write_mu2net(tmp_path / "first/state_3_0"), store)
    path = store.resolve("toy/a").path
    for task in ("toy/a", "toy/b", "toy/c"):
        store.rm(task)
    publish(store, path, 0.5, live=True, task="toy/seed")
    return store


def test_a_better_version_from_elsewhere_stays_live(tmp_path, store):
    path = store.resolve("toy/seed").path
    publish(store, path, 0.9, live=True, task="toy/a")
    publish(store, path, 0.1, live=True, task="toy/b")
    again = imported(tmp_path / "first", store)
    assert [(v.version, v.live, v.added) for v in again.versions] == [
        (3, False, True),  # toy/a; version 1 was removed
        (3, True, True),  # toy/b
        (2, True, True),  # toy/c
    ]


def test_an_import_made_again_leaves_live_what_somebody_chose(tmp_path, store):
    path = store.resolve("toy/seed").path
    chosen = publish(store, path, 0.1, live=True, task="toy/b")
    imported(tmp_path / "first", store)
    assert store.resolve("toy/b").version == chosen + 1
    store.rollback("toy/b", chosen)
    again = imported(tmp_path / "first", store)
    assert store.resolve("toy/b").version == chosen
    assert [v.live for v in again.versions] == [True, False, True]


def test_an_import_made_again_makes_live_where_nothing_is(tmp_path, store):
    system = write_agents(tmp_path / "system").directory
    imported(system, store)
    versions = [version.path for version in store.history("toy/a")]
    store.rm("toy/a")
    ascending = sorted(versions, key=lambda p: p.metrics["validation"]["accuracy"])
    *_, wanted = [store.publish(version, live=False) for version in ascending]
    imported(system, store)
    assert store.resolve("toy/a").version == wanted.version


# ---- runs


def test_a_run_that_evolution_made_is_not_replaced(tmp_path):
    directory = write_mu2net(tmp_path / "state_3_0")
    store = new_store(tmp_path)
    imported(directory, store)
    name = f"imported/{tmp_path.name}"
    document = store.load_agent(name)
    assert document is not None
    store.save_agent(name, {**document, "settings": {"name": "x"}}, [])
    with pytest.raises(CheckpointError, match="evolution made"):
        imported(directory, store)


def _other_root(state: Path) -> None:
    kept = {i: name for i, name in MU2NET_LAYERS.items() if i not in (7, 8)}
    entries = mu2net_entries(kept)
    entries["cls:4"] = entries["cls:4"] + 1
    write_checkpoint(state / "checkpoint_3_0", entries)


def _other_models(state: Path) -> None:
    rows = rows_of(state / "paths.csv")
    write_table(state / "paths.csv", [{**row, "metrics.end_time": 5000.0} for row in rows])


@pytest.mark.parametrize(
    ("change", "why"), [(_other_root, "has another root"), (_other_models, "none of its models")]
)
def test_a_run_of_another_system_is_not_replaced(tmp_path, change, why):
    """Directories of one name; systems from one pretrained root are told apart as well."""
    store = new_store(tmp_path)
    imported(write_mu2net(tmp_path / "mine/run/state_3_0"), store)
    before, versions = store.load_agent("imported/run"), store.live()
    other = write_mu2net(tmp_path / "theirs/run/state_3_0")
    change(other)
    with pytest.raises(CheckpointError, match=f"imported/run.*{why}; rename the directory"):
        imported(other, store)
    assert (store.load_agent("imported/run"), store.live()) == (before, versions)


def test_a_later_state_of_the_system_replaces_the_run(tmp_path):
    early = write_mu2net(tmp_path / "run/state_3_0")
    whole = rows_of(early / "paths.csv")
    write_table(early / "paths.csv", whole[:-1])
    store = new_store(tmp_path)
    imported(tmp_path / "run", store)
    write_mu2net(tmp_path / "run/state_4_0")
    report = imported(tmp_path / "run", store)
    assert report.runs == ("imported/run",)
    document = store.load_agent("imported/run")
    assert document is not None
    assert len(document["archive"]) == 1


def test_systems_of_agents_in_two_directories_are_two_runs_of_a_class(tmp_path):
    store = new_store(tmp_path)
    for name in ("one", "two: again"):
        imported(write_agents(tmp_path / name).directory, store)
    assert sorted(store.agents()) == [
        "imported/one/VitB",
        "imported/one/VitT3",
        "imported/two-again/VitB",
        "imported/two-again/VitT3",
    ]
