"""The experiments' settings: the published columns, overriding one, baselines, their JSON."""

import json

import numpy as np
import pytest

from evolution.experiments import benchmarks
from evolution.experiments.baselines import baseline
from evolution.experiments.experiment import Experiment, with_settings
from evolution.experiments.named import EXPERIMENTS
from evolution.experiments.search_space import MU2NET_V2
from evolution.mutation import drawn_hyperparameters
from evolution.population import Score

ALL = pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda e: e.name)


@ALL
def test_every_default_is_among_its_choices(experiment):
    for key, choices in experiment.ranges.items():
        assert experiment.defaults[key] in choices, key


@ALL
def test_a_saved_experiment_is_the_same_again(experiment):
    """Through real JSON, in which tuples are lists."""
    read = Experiment.from_json(json.loads(json.dumps(experiment.to_json())))
    assert read.to_json() == experiment.to_json() or json.dumps(read.to_json()) == json.dumps(
        experiment.to_json()
    )
    assert read.method == experiment.method and read.score == experiment.score


def test_every_benchmark_has_an_experiment_of_every_method():
    for method in ("munet", "mu2net", "mu2net-plus"):
        for bench in (
            "cmaterdb", "chars", "vdd", "vit", "vtab-full", "vtab-1k",
            "chars5-published", "chars5-tuned",
        ):  # fmt: skip
            assert EXPERIMENTS[f"{method}-{bench}"].tasks, bench


def test_the_preliminary_experiment_is_the_published_one():
    """evolution/EXPERIMENTS.md, Runs."""
    e = EXPERIMENTS["mu2net-cmaterdb"]
    assert e.root == "random:Ti/16" and e.tasks == benchmarks.CMATERDB
    assert (e.passes, e.samples_per_task, e.batch_size, e.rounds_per_child) == (2, 32, 512, 4)
    assert (e.train_examples_per_round, e.validation_examples) == (51_200, 5_120)
    assert e.score.factor == 1 and not e.mutate_adapters
    published = {
        "_mu_": 0.2, "num_layers": 0, "adapter_dim": 32, "opt_lr": 0.01,
        "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1, "opt_momentum": 0.9,
        "opt_nesterov": False, "ds_image_size": 32, "ds_crop": True, "ds_area_range_min": 0.05,
        "ds_aspect_ratio_range_min": 0.75, "ds_flip_left_right": True,
    }  # fmt: skip
    assert published.items() <= e.defaults.items()
    assert set(e.ranges) == {*MU2NET_V2, "num_layers"}
    assert len(MU2NET_V2) == 13 and e.ranges["num_layers"] == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("name", "batch", "steps", "rounds", "passes", "samples", "validation", "score"),
    [
        ("munet-chars", 512, 100, 5, 2, 64, 5_120, Score(1.0, 1_484_162)),
        ("munet-vdd", 256, 200, 30, 2, 64, 2_560, Score(1.0, 85_652_738)),
        ("munet-vit", 32, 4_000, 2, 32, 16, 9_984, Score(1.0, 303_303_682)),
        ("mu2net-vdd", 256, 200, 30, 2, 64, 5_120, Score(1.0, 85_652_738)),
        ("mu2net-vit", 64, 2_002, 4, 1, 128, 9_984, Score(1.0, 303_303_682)),
        ("mu2net-plus-vdd", 128, 400, 4, 10, 32, 5_120, Score(1.0, 85_652_738, 100e9)),
        ("mu2net-plus-vit", 16, 6_250, 8, 24, 16, 10_000, Score(0.99, 2.2e9, 3.8e12)),
    ],
)
def test_sizes_are_the_published_ones(
    name, batch, steps, rounds, passes, samples, validation, score
):
    """evolution/EXPERIMENTS.md, Runs; with more data than any cap."""
    e = EXPERIMENTS[name]
    assert (e.batch_size, e.rounds_per_child, e.passes) == (batch, rounds, passes)
    assert e.samples_per_task == samples and e.score == score
    assert e.steps_per_round(10**7) == steps
    assert e.validation_count(10**6) == validation


def test_a_setting_can_be_overridden():
    e = with_settings(EXPERIMENTS["demo"], ["batch_size=64", "defaults.opt_lr=0.1"])
    assert (e.batch_size, e.defaults["opt_lr"]) == (64, 0.1)
    assert EXPERIMENTS["demo"].batch_size == 32


@pytest.mark.parametrize("kind", ["finetune-all", "freeze:2", "adapters:16"])
def test_a_baseline_has_the_searchs_training_budget(kind):
    """Its replicas are as long as all generations (evolution/SYSTEMS.md, Baselines)."""
    search = EXPERIMENTS["mu2net-chars"]
    for children in (1, 8):
        sizes = [f"children_per_generation={children}", f"replicas={children}"]
        changed = baseline(kind, with_settings(search, sizes))
        rounds = changed.passes * changed.samples_per_task * changed.rounds_per_child
        assert rounds == search.passes * search.samples_per_task * search.rounds_per_child
        assert changed.samples_per_task == children and not changed.ranges


def test_random_search_draws_from_the_ranges_and_the_first_child_has_the_defaults():
    search = EXPERIMENTS["fitted-compare"]
    changed = baseline("random-search", search)
    assert changed.samples_per_task == search.samples_per_task - 1  # whose first takes no step
    assert changed.rounds_per_child == search.rounds_per_child
    assert changed.ranges and "_mu_" not in changed.ranges and changed.defaults["_mu_"] == 1
    rng = np.random.default_rng(0)
    first, *others = (drawn_hyperparameters(i, changed, rng) for i in range(50))
    assert first == {key: changed.defaults[key] for key in changed.ranges}
    for key, values in changed.ranges.items():
        assert {drawn[key] for drawn in others} == set(values), key


def test_the_comparison_trains_all_methods_for_as_many_steps():
    methods = [e for e in EXPERIMENTS.values() if e.name.endswith("-compare")]
    assert {e.method.name for e in methods} == {"fitted", "munet", "mu2net", "mu2net-plus"}
    for e in methods:
        full = EXPERIMENTS[f"{e.name}-full"]
        for experiment, pictures in ((e, 8_000), (full, 32_000)):
            steps = experiment.steps_per_round(70)
            assert steps == experiment.steps_per_round(70_000)  # small sets are repeated
            children = experiment.samples_per_task - experiment.method.fits_heads
            assert 0 <= children * steps * experiment.batch_size - pictures < children * 32
        assert (
            e.tasks == benchmarks.COMPARE
            and full.tasks == benchmarks.COMPARE_FULL
            and full.ranges == e.ranges
        )
        if e.method.name != "fitted":
            published = EXPERIMENTS[f"{e.method.name}-chars"]
            assert e.defaults == published.defaults


def test_size_scale_is_the_search_with_size_in_its_score():
    changed = baseline("size-scale:70", EXPERIMENTS["munet-chars"])
    assert changed.score.factor == 0.7 and changed.ranges
    assert changed.method.sweeps_seeds
    deep = baseline("size-scale:30", EXPERIMENTS["mu2net-vit"])  # whose depth is else fixed
    assert deep.ranges["num_layers"] == tuple(range(1, 25))


@pytest.mark.parametrize("kind", ["size-scale:0", "size-scale:140", "adapters:0", "freeze:x"])
def test_a_baseline_out_of_bounds_says_the_bounds(kind):
    with pytest.raises(ValueError, match="whole number from"):
        baseline(kind, EXPERIMENTS["munet-chars"])


@pytest.mark.parametrize(
    "setting", ["batch_size=0", 'batch_size="64"', "passes=1.5", "passes=true"]
)
def test_sizes_are_positive_whole_numbers(setting):
    with pytest.raises(ValueError, match="whole number from 1 up"):
        with_settings(EXPERIMENTS["demo"], [setting])


def test_the_way_of_accounting_is_the_methods():
    assert EXPERIMENTS["mu2net-plus-vdd"].scorer.root_counts
    assert not EXPERIMENTS["mu2net-vdd"].scorer.root_counts
