"""The experiments' settings: the published column, and that every default can be mutated."""

import pytest

from evolution.experiments import AUTO_TUNE_V2, EXPERIMENTS, MU2NET_CMATERDB


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda e: e.name)
def test_every_default_is_among_its_choices(experiment):
    for key, choices in experiment.ranges.items():
        assert experiment.defaults[key] in choices, key


def test_the_preliminary_experiment_is_the_published_one():
    """spec/mu2net.md §5, column ti0."""
    e = MU2NET_CMATERDB
    arch, components = e.root()
    assert (arch.width, arch.patch_size, arch.num_layers, arch.image_size) == (192, 16, 0, 32)
    assert list(components) == ["embedding", "cls", "posembed_input", "encoder_norm", "head"]
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
    assert set(e.ranges) == {*AUTO_TUNE_V2, "num_layers"}
    assert len(AUTO_TUNE_V2) == 13 and e.ranges["num_layers"] == (0, 1, 2, 3)
