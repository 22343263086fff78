"""Below which probability gateways abstain: a number of a task, which watchers are told at once."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_store import CorruptRef, ModelStore, UnknownTask
from model_store.cli.app import app
from model_store.names import task_key
from tests.model_store.places import Place
from tests.model_store.samples import document, new_store, publish, write_value


def value_of(store: ModelStore) -> Any:
    return json.loads(document(store, "t").read_text())["value"]


def test_a_watcher_is_told_of_each_change(place: Place) -> None:
    store = place.open(create=True)
    for task in ("t", "u"):
        publish(store, task, 1)
    watcher = place.open()
    assert not watcher.watched().min_probabilities
    assert store.min_probability("t") == 0
    for least in (0.8, 0.25, 1.0):
        store.set_min_probability("t", least)
        assert watcher.watched().min_probabilities == {"t": least}
        assert watcher.watched() is watcher.watched()
    store.set_min_probability("u", 0.5)
    store.set_min_probability("t", 0)
    assert watcher.watched().min_probabilities == {"u": 0.5}


def test_it_is_of_all_versions_and_goes_with_the_last(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for seed in (1, 2):
        publish(store, "t", seed)
    store.set_min_probability("t", 0.8)
    store.rollback("t", 1)
    publish(store, "t", 3)
    store.rm("t", 2)
    assert store.min_probability("t") == 0.8
    store.rm("t")
    publish(store, "t", 4)
    assert store.min_probability("t") == 0
    assert "min_probability" not in value_of(store)


def test_a_task_that_is_not_there_has_none(tmp_path: Path) -> None:
    with pytest.raises(UnknownTask):
        new_store(tmp_path).set_min_probability("t", 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan"), "0.5", None, True])
def test_what_is_no_share_is_refused_and_in_a_document_damage(tmp_path: Path, share: Any) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    with pytest.raises(ValueError, match="min_probability"):
        store.set_min_probability("t", share)
    if share == share:
        value = value_of(store)
        write_value(store, task_key("t"), {**value, "min_probability": share})
        with pytest.raises(CorruptRef):
            ModelStore(store.url).min_probability("t")


def test_the_command(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)

    def run(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*words, "--store", store.url])
        assert done.exit_code == code, done.output
        return done.output

    assert "t: gateways abstain below 70%" in run("set", "t", "--min-probability", "70%")
    assert store.min_probability("t") == 0.7
    assert "below 70%" in run("show", "t")
    assert json.loads(run("show", "t", "--json"))["min_probability"] == 0.7
    run("set", "t", "--min-probability", "2", code=2)
    assert "abstain from no answer" in run("set", "t", "--min-probability", "0")
    assert "abstains" not in run("show", "t")
