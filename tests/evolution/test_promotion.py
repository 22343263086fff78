"""Only qualities of the same examples are compared: with any settings, nothing worse takes over."""

import logging
import shutil
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolution import promotion
from evolution.agents import kinds
from evolution.agents.kinds import AgentClass
from evolution.data.images import Examples, Split, StreamedSplit
from evolution.events import TaskPublished
from evolution.experiments.search_space import NO_AUGMENTATION
from evolution.multipath.children import MultipathPaths
from evolution.promotion import AGENT, BASELINE, IMPORT, RUN, qualities
from evolution.run import Run
from evolution.state import load
from evolution.training.validation import MEASURED, measured_on, told_by
from model_store import ModelStore, Published
from tests.evolution.agent_systems import FOUR, publish, run, tiny_classes
from tests.evolution.multipath_systems import EXPERIMENT as MULTI
from tests.evolution.systems import TINY, start, tasks, tiny, toy_task

TASK = toy_task("toy/b")
ALL = len(TASK.validation)
STILL = {**TINY.defaults, **NO_AUGMENTATION, "ds_crop": False, "_mu_": 1.0}
RUINOUS = {"opt_lr": (0.1, 30.0)}  # a child of the good path may know nothing any more
GOOD = tiny(tasks=("toy/b",), passes=1, rounds_per_child=30, ranges=RUINOUS, defaults=STILL)
HOPELESS = replace(GOOD, ranges={}, defaults={**STILL, "opt_lr": 1e-9}, rounds_per_child=1)
ONE = "validation_examples=1"


def really(store: ModelStore, version: Published) -> float:
    """A version's accuracy on all validation examples."""
    return promotion._quality(store, TASK, version.path, ALL)


def live(store: ModelStore) -> float:
    return really(store, store.resolve("toy/b"))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A store with the version of a run that has learned the task."""
    directory = tmp_path_factory.mktemp("good") / "store"
    list(start(directory, GOOD).run())
    store = ModelStore(directory)
    assert live(store) > 0.5
    return store


def copied(good: ModelStore, directory) -> ModelStore:
    """A store of its own, as the run left it."""
    return ModelStore(shutil.copytree(good.url, directory))


def test_what_is_published_and_saved_says_what_it_was_measured_on(good):
    path = good.resolve("toy/b").path
    expected = measured_on("toy/b", TASK.validation, ALL)
    assert told_by(path) == expected and path.metrics[MEASURED]["examples"] == ALL
    # Where a picture has one class, nothing more is said.
    assert set(path.metrics[MEASURED]) == {"accuracy", *expected}
    assert set(path.extra) == {"temperature"}
    progress, population = load(good, TINY.name)
    assert [p.metrics[MEASURED] for p in population.paths["toy/b"]] == [expected]
    assert [row["measured"] for row in progress.history] == [expected] * len(progress.history)


@pytest.mark.parametrize("setting", [ONE, "validation_examples=7", "batch_size=37"])
def test_a_run_resumed_with_fewer_examples_compares_on_all_that_it_had(good, tmp_path, setting):
    """The law of the larger set: fewer can make no path look better than those that are there."""
    store = copied(good, tmp_path / "store")
    before = live(store)
    list(Run.resume(store, TINY.name, tasks, ("toy/b",), [setting]).run())
    progress, _ = load(store, TINY.name)
    assert {row["measured"]["examples"] for row in progress.history} == {ALL}
    assert live(store) >= before


def test_a_run_resumed_with_more_examples_measures_its_path_again(tmp_path):
    few = replace(GOOD, validation_examples=1)
    list(start(tmp_path, few).run())
    store = ModelStore(tmp_path)
    before = store.resolve("toy/b")
    assert before.path.metrics[MEASURED]["examples"] == 1
    resumed = Run.resume(store, TINY.name, tasks, ("toy/b",), ["validation_examples=96"])
    next(resumed.run())
    path = next(p for p in resumed.population.paths["toy/b"] if p.published == before.digest)
    assert path.metrics[MEASURED] == measured_on("toy/b", TASK.validation, ALL)
    assert path.quality == really(store, before)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("setting", [1, 2])
def test_another_run_of_fewer_examples_takes_over_only_if_it_is_better(
    good, tmp_path, seed, setting
):
    store = copied(good, tmp_path / "store")
    before = live(store)
    few = replace(HOPELESS, validation_examples=setting)
    *_, event = start(tmp_path / "store", few, seed, name="few").run()
    assert isinstance(event, TaskPublished)
    newest = store.resolve("toy/b", event.version)
    assert event.live == (really(store, newest) >= before)
    assert live(store) >= before


def test_another_run_that_is_better_takes_over_whatever_the_other_was_measured_on(good, tmp_path):
    few = replace(HOPELESS, validation_examples=1)
    list(start(tmp_path / "store", few, name="few").run())
    store = ModelStore(tmp_path / "store")
    assert live(store) < 0.6
    list(start(tmp_path / "store", GOOD).run())
    assert live(store) > 0.5 and store.resolve("toy/b").path.lineage["agent"] == TINY.name


def test_a_run_continued_elsewhere_keeps_the_larger_set(good, tmp_path):
    store = ModelStore(tmp_path / "other", create=True)
    few = replace(HOPELESS, validation_examples=1)
    list(Run.extend(few, store, 0, tasks, (good, TINY.name), "few").run())
    progress, _ = load(store, "few")
    rows = progress.history[-few.samples_per_task :]
    assert {row["measured"]["examples"] for row in rows} == {ALL}
    assert live(store) >= live(good)


def test_a_copied_version_does_not_replace_what_cannot_be_compared(good, tmp_path):
    store = ModelStore(tmp_path / "other", create=True)
    chosen = publish(store, "x/toy/b", "toy/b", 1)  # it does not tell its examples
    store.rollback("toy/b", chosen.version)
    Run.extend(GOOD, store, 0, tasks, (good, TINY.name), "more")
    assert store.live()["toy/b"][0] == chosen.version


# ---- agents


@pytest.fixture
def shared(tmp_path):
    with tiny_classes():
        yield ModelStore(tmp_path / "agents", create=True)


def test_agents_of_few_examples_promote_only_what_is_better(shared):
    run(shared, "three:toy/b", cycles=2)
    before = live(shared)
    *_, event = run(shared, "four:toy/b", settings=(ONE, "defaults.opt_lr=1e-4"))
    assert isinstance(event, TaskPublished)
    newest = really(shared, shared.resolve("toy/b", event.version))
    assert event.live == (newest > before) and live(shared) >= before


def test_an_agents_bar_is_measured_on_its_own_examples(shared):
    """A parent of the same task but another owner sets a bar, also if it claims to reach more."""
    claims = publish(shared, "x/toy/b", "toy/b", 1, metrics={"validation": {"accuracy": 1.0}})
    with tiny_classes():
        events = run(shared, "three:toy/b", cycles=3)
    children = [e for e in events if not isinstance(e, TaskPublished)]
    parents = {e.outcome.parent for e in children}  # type: ignore[union-attr]
    for parent in (p for p in parents if p.published == claims.digest):
        assert parent.quality == really(shared, claims)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_a_claim_that_tells_no_examples_is_measured(shared, accuracy):
    claims = publish(
        shared, "x/toy/b", "toy/b", 1,
        metrics={"validation": {"accuracy": accuracy, "split": "validation", "examples": 5}},
    )  # fmt: skip
    shared.rollback("toy/b", claims.version)
    *_, event = run(shared, "four:toy/b", cycles=2)
    assert isinstance(event, TaskPublished)
    newest = shared.resolve("toy/b", event.version)
    assert event.live == (really(shared, newest) > really(shared, claims))


NO_MEASUREMENTS = [
    0.9, "0.9", [], None, {}, {"accuracy": "0.9"}, {"accuracy": True}, {"accuracy": None},
    {"accuracy": {}, "split": "validation", "examples": "5", "digest": "d"},
    {"accuracy": [0.9], "split": [], "examples": [5], "digest": {}},
    {"accuracy": 1.0, "split": "validation", "examples": -5, "digest": "d"},
]  # fmt: skip


@pytest.mark.parametrize("told", NO_MEASUREMENTS, ids=repr)
def test_metrics_of_any_json_are_no_measurement(good, told):
    """Others publish what they like: it ends no run, and the version is measured here."""
    version = good.resolve("toy/b")
    metrics = {"validation": told, "test": told, "compute": told}
    foreign = replace(version, path=replace(version.path, metrics=metrics))
    assert told_by(foreign.path) == {}
    found = qualities(good, TASK, version.path, foreign)
    assert found is not None and found[0] == found[1] > 0.5


@pytest.mark.parametrize("told", NO_MEASUREMENTS[:2] + NO_MEASUREMENTS[-2:], ids=repr)
def test_an_agent_takes_over_versions_with_metrics_of_any_json(shared, told):
    metrics = {"validation": told, "test": told, "compute": told}
    publish(shared, "x/toy/b", "toy/b", 1, metrics=metrics)
    *_, event = run(shared, "four:toy/b")
    assert isinstance(event, TaskPublished)


def test_a_version_of_other_classes_stays_and_the_log_says_why(shared, caplog):
    kept = publish(shared, "x/toy/b", "toy/b", 1, labels=("x", "y"))
    shared.rollback("toy/b", kept.version)
    with caplog.at_level(logging.WARNING):
        *_, event = run(shared, "four:toy/b")
    assert isinstance(event, TaskPublished) and not event.live
    assert shared.live()["toy/b"][0] == kept.version
    assert "event=not_compared" in caplog.text and "3 classes" in caplog.text


def test_a_multipath_version_is_measured_as_it_was(shared):
    multi = AgentClass(MULTI, children=MultipathPaths, single=FOUR)
    with patch.dict(kinds.CLASSES, {"multi": multi}):
        run(shared, "four:toy/b")
        run(shared, "multi:toy/b")
    for version in shared.history("toy/b"):
        told = version.path.metrics[MEASURED]
        assert really(shared, version) == pytest.approx(told["accuracy"], abs=1.5 / ALL)
        assert told_by(version.path)


# ---- what is measured on


def split(labels: list[int], seed: int = 0, name: str = "validation") -> Split:
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 4, 4, 1), dtype=np.uint8)
    return Split(name, images, np.asarray(labels, np.int32))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=200), st.data())
def test_the_digest_is_of_the_choice_the_order_and_the_number_of_examples(labels, data):
    found = measured_on("t", split(labels), len(labels))
    assert found == measured_on("t", split(labels), len(labels))
    other = data.draw(st.permutations(labels))
    if other != labels:
        assert measured_on("t", split(other), len(labels)) != found
    assert measured_on("t", split(labels), len(labels) - 1) != found
    assert measured_on("t", split([*labels, 0]), len(labels)) != found
    assert measured_on("t", split(labels, seed=1), len(labels)) != found
    assert measured_on("t", split(labels, name="test"), len(labels)) != found
    assert measured_on("u", split(labels), len(labels)) != found


class Encoded(list):
    def __getitems__(self, keys):
        return [self[key] for key in keys]


def test_the_digest_of_a_streamed_split_is_of_its_records():
    def streamed(records: list[bytes]) -> StreamedSplit:
        examples = Examples("made up", Encoded(records), lambda r: {}, 2, (None, None, 3))
        return StreamedSplit("validation", examples, 8)

    records = [bytes([i]) for i in range(100)]
    found = measured_on("t", streamed(records), 80)
    assert found == measured_on("t", streamed(records), 80)
    assert found != measured_on("t", streamed([b"x", *records[1:]]), 80)
    assert found != measured_on("t", streamed(records), 79)


def test_equal_sets_are_compared_as_told_and_nothing_is_measured(good, monkeypatch):
    monkeypatch.setattr(promotion, "_quality", None)
    version = good.resolve("toy/b")
    told = version.path.metrics[MEASURED]["accuracy"]
    assert qualities(good, TASK, version.path, version) == (told, told)


# ---- the one rule


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("rule", [RUN, BASELINE, AGENT, IMPORT])
def test_better_goes_live_worse_and_unknown_do_not_for_every_publisher(rule, own):
    """Only a tie depends on the publisher."""
    assert rule.replaces(own, False, lambda: (0.6, 0.5))
    assert not rule.replaces(own, False, lambda: (0.5, 0.6))
    assert not rule.replaces(own, False, lambda: None)


@pytest.mark.parametrize(
    ("rule", "own", "other"),
    [(RUN, True, True), (BASELINE, False, False), (AGENT, True, False), (IMPORT, False, False)],
)
def test_who_wins_a_tie(rule, own, other):
    assert rule.replaces(True, False, lambda: (0.5, 0.5)) == own
    assert rule.replaces(False, False, lambda: (0.5, 0.5)) == other


def test_a_run_has_compared_its_own_versions_by_score():
    def measured() -> None:
        raise AssertionError

    assert RUN.replaces(True, True, measured) and BASELINE.replaces(True, True, measured)
    assert not AGENT.replaces(True, True, lambda: (0.5, 0.6))
