"""Routers and connectors are trained over frozen paths, which are run once for all children."""

from collections import Counter
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from evolution.data.tasks import Split, Task
from evolution.multipath.frozen_paths import parts_of
from evolution.multipath.programs import judge_mixed, train_on_answers, train_on_images
from evolution.multipath.sampling import Origin, make_child
from evolution.multipath.trainer import MixerTrainer, mixer_of
from evolution.population import Path
from evolution.training.batches import Batches
from evolution.training.trainer import Round, Trainer
from tests.evolution.multipath_systems import EXPERIMENT, OWNER, System, system
from tests.evolution.systems import ROOT as ARCHITECTURE
from tests.evolution.systems import TINY, toy_task
from vit.activation import SIGMOID
from vit.mixer import ROUTER, connector_name

STILL = replace(EXPERIMENT, ranges={}, rounds_per_child=2)
DATA = {k: v for k, v in STILL.defaults.items() if k.startswith("ds_")}
CROPS = {**DATA, "ds_area_range_min": 0.5, "ds_flip_left_right": True}
TASK = toy_task("toy/a")


@pytest.fixture
def made(tmp_path) -> System:
    """Paths of the task, of a task at another image size, and of one more."""
    found = system(tmp_path)
    found.population.paths.clear()  # the root is never drawn
    found.publish("vit/toy/a", "toy/a", 1)
    found.publish("vit/toy/b", "toy/b", 2, size=12)
    found.publish("vit/toy/c", "toy/c", 3, size=12)
    return found


def child_of(made: System, seed: int, data: dict[str, Any] = DATA, paths: int = 2) -> Path:
    experiment = replace(STILL, defaults={**STILL.defaults, "num_paths": paths})
    origin = Origin(OWNER, "toy/a", 3, ARCHITECTURE)
    return make_child(made.population, origin, experiment, data, np.random.default_rng(seed))[0]


def trained(child: Path, trainer: MixerTrainer | None = None) -> list[Round]:
    trainer = trainer or MixerTrainer(STILL, TASK)
    return list(trainer.train(child, Batches.of(STILL, TASK, 0, (0,))))


def test_only_router_and_connectors_change_and_they_learn(made):
    child = child_of(made, 0, paths=3)
    before = {c.name: jax.tree.map(np.array, c.params) for c in child.components}
    *_, last = trained(child)
    assert set(last.state.params) == {ROUTER, connector_name(1), connector_name(2)}
    for component in child.components:  # which stay as they are: the round holds what is new
        jax.tree.map(np.testing.assert_array_equal, component.params, before[component.name])
    for name, tree in last.state.params.items():
        bias = np.asarray(tree["Dense_0"]["bias"])
        assert np.abs(bias - before[name]["Dense_0"]["bias"]).max() > 0
    assert last.finite and last.quality > MixerTrainer(STILL, TASK).tested(child)["test_quality"]


def test_a_fresh_child_is_as_good_as_its_main_path(made):
    child = child_of(made, 0)
    (main,) = made.population.paths["vit/toy/a:toy/a"]
    arch = parts_of(child)[0].network.architecture
    mixer = MixerTrainer(STILL, TASK)
    assert (
        mixer.tested(child)["test_quality"]
        == Trainer(TINY, TASK).tested(main, arch)["test_quality"]
    )
    np.testing.assert_allclose(mixer.mean_weights(child), [0.8, 0.2], atol=1e-6)


def test_kept_answers_train_as_images_do(made, monkeypatch):
    """Of two image sizes."""
    child = child_of(made, 1)
    assert [p.network.architecture.image_size for p in parts_of(child)] == [8, 12]
    kept = trained(child)
    monkeypatch.setattr("evolution.multipath.trainer.augments", lambda strengths: True)
    for a, b in zip(kept, trained(child), strict=True):
        assert a.quality == b.quality
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5),
            a.state.params, b.state.params,
        )  # fmt: skip


def test_augmented_images_train_otherwise(made):
    plain, augmented = child_of(made, 1), child_of(made, 1, CROPS)
    ends = [trained(child)[-1].state.params[connector_name(1)] for child in (plain, augmented)]
    kernels = [np.asarray(end["Dense_0"]["kernel"]) for end in ends]
    assert np.isfinite(kernels[1]).all() and np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_a_higher_router_rate_moves_the_router_alone(made):
    child = child_of(made, 1)
    ends = []
    for rate in (0.0, 0.5):
        child.hyperparameters = {**child.hyperparameters, "router_lr_mult": rate}
        first = trained(child, MixerTrainer(replace(STILL, rounds_per_child=1), TASK))[0]
        ends.append(first.state.params[ROUTER])
    fresh = mixer_of(child)[0].params
    jax.tree.map(np.testing.assert_array_equal, ends[0], fresh)
    assert np.abs(np.asarray(ends[1]["Dense_0"]["bias"]) - fresh["Dense_0"]["bias"]).max() > 1e-4


reads: Counter[int] = Counter()  # examples read, by the size to which they were brought


class Counted(Split):
    """A split that counts in `reads`."""

    def evaluation_inputs(self, rows, size):
        reads[size] += len(rows)
        return Split.evaluation_inputs(self, rows, size)


def counted(task: Task) -> Task:
    """The task, with what is read of its training and validation examples counted from now on."""
    reads.clear()
    parts = {
        name: Counted(s.name, s.images, s.labels)
        for name, s in (("train", task.train), ("validation", task.validation))
        if isinstance(s, Split)
    }
    return replace(task, **parts)


def test_each_path_runs_once_over_the_images_whatever_the_children(made):
    """And nothing is compiled for a second child of one shape."""
    task = counted(TASK)
    trainer, children = MixerTrainer(STILL, task), [child_of(made, seed) for seed in range(12)]
    assert len({parts_of(child)[1].task for child in children}) == 2
    compiled, programs = set(), (train_on_answers, train_on_images, judge_mixed)
    for child in children:
        trained(child, trainer)
        compiled.add(sum(program._cache_size() for program in programs))
    all_images = len(task.train) + trainer.validation_count
    assert reads == {8: all_images, 12: 2 * all_images}  # one path of 8 px, two of 12
    assert len(compiled) == 1


def test_answers_are_forgotten_when_there_are_too_many(made, monkeypatch):
    """Those not needed now, the longest unused first."""
    task = counted(TASK)
    trainer = MixerTrainer(STILL, task)
    first = child_of(made, 0)
    other = next(
        c for c in (child_of(made, seed) for seed in range(1, 20))
        if parts_of(c)[1].task != parts_of(first)[1].task
    )  # fmt: skip
    whole = trained(first, trainer)
    monkeypatch.setattr("evolution.training.batches.RESIDENT_BYTES", 4 * 64 * (3 + 16))
    trained(other, trainer)
    again = trained(first, trainer)
    all_images = len(task.train) + trainer.validation_count
    assert reads == {8: all_images, 12: 3 * all_images}  # the main path's were in use all the time
    assert [r.quality for r in again] == [r.quality for r in whole]


def test_paths_with_several_labels_are_mixed_and_judged_as_their_main_path(made):
    def of_labels(split):
        return replace(split, labels=np.eye(3, dtype=np.uint8)[split.labels])

    splits = {name: of_labels(getattr(TASK, name)) for name in ("train", "validation", "test")}
    task = replace(TASK, activation=SIGMOID, **splits)
    child, mixer = child_of(made, 0), MixerTrainer(STILL, task)
    (main,) = made.population.paths["vit/toy/a:toy/a"]
    arch = parts_of(child)[0].network.architecture
    fresh = mixer.tested(child)["test_quality"]
    assert fresh == pytest.approx(Trainer(TINY, task).tested(main, arch)["test_quality"], abs=1e-6)
    last = list(mixer.train(child, Batches.of(STILL, task, 0, (0,))))[-1]
    assert last.finite and last.quality > fresh
