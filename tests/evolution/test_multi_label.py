"""Tasks with several labels a picture: trained, judged and published."""

from __future__ import annotations

import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from evolution.data.images import Split
from evolution.data.tasks import Task, task_name
from evolution.events import Event, TaskPublished
from evolution.experiments.search_space import DEFAULTS
from evolution.population import Component, Path
from evolution.reports import comparison_page
from evolution.reports.measures import quality_word
from evolution.reports.stored_runs import analyse, load
from evolution.roots.loading import random_root
from evolution.run import Run
from evolution.training.batches import Batches
from evolution.training.calibration import expected_error, fitted_temperature
from evolution.training.objectives import mean_average_precision
from evolution.training.trainer import Trainer
from evolution.training.validation import measured_on
from model_store import ModelStore
from tests.evolution.systems import ROOT, tiny
from vit import Architecture
from vit.activation import SIGMOID, activation_of, sigmoid, temperature_of
from vit.forward import forward

ARCH = replace(ROOT, num_classes=4)
PLAIN = {**DEFAULTS, "opt_lr": 0.1, "ds_crop": False, "ds_flip_left_right": False}


def corner_task(entry: str, examples: int = 64) -> Task:
    """Which of the four corners of a noisy 8 x 8 image are bright: any number of them."""
    name = task_name(entry)
    rng = np.random.default_rng(list(name.encode()))

    def split(kind: str, count: int) -> Split:
        images = rng.integers(0, 120, (count, 8, 8, 1), dtype=np.uint8)
        labels = (rng.random((count, 4)) < [0.5, 0.4, 0.3, 0.2]).astype(np.uint8)
        for image, wanted in zip(images, labels, strict=True):
            for corner in np.flatnonzero(wanted):
                row, column = divmod(int(corner), 2)
                image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 120
        return Split(kind, images, labels)

    return Task(
        name=name,
        private=False,
        labels=("nw", "ne", "sw", "se"),
        train=split("train", examples),
        validation=split("validation", 48),
        test=split("test", 40),
        activation=SIGMOID,
    )


def large(entry: str) -> Task:
    return corner_task(entry, 4000)


def child(trainable, arch: Architecture = ARCH) -> Path:
    params = random_root(arch)
    head = np.random.default_rng(0).normal(size=params["head"]["kernel"].shape)
    params["head"]["kernel"] = head.astype(np.float32)
    components = tuple(
        Component(i, name, tree, 1000, locks=set() if name in trainable else {"other"})
        for i, (name, tree) in enumerate(params.items())
    )
    return Path(0, "toy/corners", None, components, PLAIN, 1)


def trained(path: Path, steps: int = 8, task: Task | None = None):
    """The child's last round."""
    batches = Batches(0, (1,), 64, 16, steps // 2, 2)
    made = Trainer(tiny(batch_size=16), task or corner_task("toy/corners"))
    return list(made.train(path, ARCH, batches))[-1]


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float32).ravel() for leaf in jax.tree.leaves(tree)])


@pytest.mark.slow  # tests of the trainer say so of one label a picture, by the same code
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trainer.WORTHWHILE_FLOPS", 0),  # on what a frozen prefix makes of the images
        ("batches.RESIDENT_BYTES", 0),  # images that stream
    ],
)
def test_however_data_come_the_same_child_is_trained(monkeypatch, name, value):
    path = child({"encoder_norm", "head"})
    plain = trained(path)
    monkeypatch.setattr(f"evolution.training.{name}", value)
    other = trained(path)
    np.testing.assert_allclose(flat(other.state.params), flat(plain.state.params), atol=2e-5)
    assert other.quality == pytest.approx(plain.quality, abs=1e-6)


def test_a_quality_is_of_the_probabilities_that_are_answered():
    task, path = corner_task("toy/corners"), child({"head"})
    inputs, labels = task.test.evaluation_inputs(np.arange(len(task.test)), 8)
    logits = jax.jit(forward, static_argnums=0)(
        ARCH, {c.name: c.params for c in path.components}, inputs
    )
    expected = mean_average_precision(sigmoid(np.asarray(logits)), labels > 0)
    found = Trainer(tiny(), task).tested(path, ARCH)["test_quality"]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> tuple[ModelStore, list[Event]]:
    """A store, and the events of a short run there: of its child everything is trained."""
    store = ModelStore(tmp_path_factory.mktemp("store"), create=True)
    experiment = tiny(
        tasks=("toy/corners",), passes=1, samples_per_task=1, batch_size=16,
        train_examples_per_round=4000, defaults={**PLAIN, "_mu_": 1.0, "num_layers": 1,
        "ds_image_size": 8}, ranges={},
    )  # fmt: skip
    search = Run.start(experiment, (ROOT, random_root(ROOT)), store, 0, lambda _: large, "run")
    return store, list(search.run())


@pytest.fixture(scope="module")
def published(grown):
    """The path spec of the run's version."""
    return grown[0].resolve("toy/corners").path


def test_nothing_that_a_run_tells_or_keeps_calls_a_mean_average_precision_an_accuracy(grown):
    store, events = grown
    (ended,) = (event for event in events if isinstance(event, TaskPublished))
    assert ended.test_quality == store.resolve("toy/corners").path.metrics["test"][
        "mean_average_precision"
    ]  # fmt: skip
    assert "accuracy" not in repr(events) and "accuracy" not in repr(store.load_agent("run"))


def test_the_pages_of_an_analysis_do_so_neither(grown, tmp_path):
    store, _ = grown
    page = analyse(store, tmp_path / "one", ["run"]).page.read_text()
    assert "mean validation mean average precision" in page
    assert not re.search("(validation|test) accurac", page, re.I)
    one = load(store, "run")
    other = replace(one, name="other", metrics={})
    assert quality_word([one]) == "mean average precision" and other.quality == "accuracy"
    assert quality_word([one, other]) == "accuracy or mean average precision"
    (tmp_path / "two").mkdir()
    comparison_page.write([one, replace(one, seed=1)], {one.name: "."}, tmp_path / "two")
    page = (tmp_path / "two/index.html").read_text()
    assert "mean average precision" in page
    assert not re.search("(validation|test) accurac", page, re.I)


def test_a_run_learns_and_its_path_spec_says_what_the_heads_are_and_how_they_were_judged(published):
    task = large("toy/corners")
    assert activation_of(published.extra) == SIGMOID
    for name, split, count in (("validation", task.validation, 48), ("test", task.test, 40)):
        told = published.metrics[name]
        assert 0.9 < told["mean_average_precision"] <= 1 and "accuracy" not in told
        assert told["examples"] == count
        assert told["positives"] == split.labels[:count].sum(0).tolist()


def test_a_version_has_the_temperature_that_fits_its_validation_answers(published, grown):
    task, test = large("toy/corners"), published.metrics["test"]
    components = [grown[0].component(digest) for digest in published.components.values()]
    params = dict(zip(published.components, components, strict=True))
    arch = Architecture.from_json(published.architecture)
    logits, labels = {}, {}
    for name, split in (("validation", task.validation), ("test", task.test)):
        inputs, labels[name] = split.evaluation_inputs(np.arange(len(split)), arch.image_size)
        found = jax.jit(forward, static_argnums=0)(arch, params, inputs)
        logits[name] = np.asarray(found, np.float64)
    fitted = fitted_temperature(SIGMOID, logits["validation"], labels["validation"])
    told = temperature_of(published.extra)
    assert told == pytest.approx(fitted, rel=1e-3)
    for name, temperature in (("ece_before", 1.0), ("ece_after", told)):
        error = expected_error(SIGMOID, logits["test"] / temperature, labels["test"])
        assert test[name] == pytest.approx(error, abs=1e-4)


def test_labels_are_part_of_what_a_quality_was_measured_on():
    task = corner_task("toy/corners")
    other = replace(task.validation, labels=1 - task.validation.labels)
    assert measured_on("t", task.validation, 48) != measured_on("t", other, 48)
