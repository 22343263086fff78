"""μ2Net+'s experiments: no augmentation by default, smaller cycles, costs in the score.

Each shows all its values (EXPERIMENTS.md, Runs; Search spaces).
    Command:  munet experiments run mu2net-plus-cmaterdb --store STORE --seed 0
"""

from __future__ import annotations

from dataclasses import replace

from evolution.experiments import benchmarks, search_space
from evolution.experiments.experiment import Experiment
from evolution.experiments.weights import B_16, L_16, TI_16
from evolution.methods import MU2NET_PLUS
from evolution.population import Score

PLUS_CMATERDB = Experiment(
    name="mu2net-plus-cmaterdb",
    method=MU2NET_PLUS,
    tasks=benchmarks.CMATERDB,
    passes=8,
    samples_per_task=16,
    root="random:Ti/16",
    batch_size=512,
    train_examples_per_round=51_200,
    children_per_generation=8,
    replicas=8,
    rounds_per_child=2,
    validation_examples=5_120,
    defaults={
        "_mu_": 0.2, "num_layers": 0, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.01, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 32, "ds_crop": True, "ds_area_range_min": 1.0,
        "ds_aspect_ratio_range_min": 1.0, "ds_flip_left_right": False, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges={
        **search_space.MU2NET_PLUS,
        "num_layers": (0, 1, 2, 3),
        "ds_image_size": (32, 48),
    },
    score=Score(factor=0.99, reference_params=1e6, reference_flops=1e6),
    mutate_adapters=True,
    max_population=7,
    bfloat16=False,
)  # fmt: skip

PLUS_CHARS = Experiment(
    name="mu2net-plus-chars",
    method=MU2NET_PLUS,
    tasks=benchmarks.CHARS,
    passes=5,
    samples_per_task=32,
    root=TI_16,
    batch_size=512,
    train_examples_per_round=51_200,
    children_per_generation=8,
    replicas=8,
    rounds_per_child=4,
    validation_examples=5_120,
    defaults={
        "_mu_": 0.1, "num_layers": 3, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.01, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 32, "ds_crop": True, "ds_area_range_min": 1.0,
        "ds_aspect_ratio_range_min": 1.0, "ds_flip_left_right": False, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges={
        **search_space.MU2NET_PLUS,
        "ds_image_size": tuple(range(16, 113, 16)), "adapter_dim": (8, 16, 32, 64, 128),
        "num_layers": (0, 1, 2, 3),
    },
    score=Score(reference_flops=15e6),
    mutate_adapters=True,
    max_population=None,
    bfloat16=False,
)  # fmt: skip

PLUS_VDD = Experiment(
    name="mu2net-plus-vdd",
    method=MU2NET_PLUS,
    tasks=benchmarks.VDD,
    passes=10,
    samples_per_task=32,
    root=B_16,
    batch_size=128,
    train_examples_per_round=51_200,
    children_per_generation=8,
    replicas=8,
    rounds_per_child=4,
    validation_examples=5_120,
    defaults={
        "_mu_": 0.1, "num_layers": 12, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.01, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 80, "ds_crop": True, "ds_area_range_min": 1.0,
        "ds_aspect_ratio_range_min": 1.0, "ds_flip_left_right": False, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges={
        **search_space.MU2NET_PLUS,
        "ds_image_size": tuple(range(16, 113, 16)), "adapter_dim": (8, 16, 32, 64, 128),
        "num_layers": tuple(range(0, 13)),
    },
    score=Score(reference_params=85_652_738, reference_flops=100e9),
    mutate_adapters=True,
    max_population=None,
    bfloat16=False,
)  # fmt: skip

PLUS_VIT = Experiment(
    name="mu2net-plus-vit",
    method=MU2NET_PLUS,
    tasks=benchmarks.VIT,
    passes=24,
    samples_per_task=16,
    root=L_16,
    batch_size=16,
    train_examples_per_round=100_000,
    children_per_generation=8,
    replicas=8,
    rounds_per_child=8,
    validation_examples=10_000,
    defaults={
        "_mu_": 0.2, "num_layers": 24, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.01, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.05,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 384, "ds_crop": True, "ds_area_range_min": 1.0,
        "ds_aspect_ratio_range_min": 1.0, "ds_flip_left_right": False, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges={
        **search_space.MU2NET_PLUS,
        "num_layers": tuple(range(0, 25)),
        "ds_image_size": (224, 384),
    },
    score=Score(factor=0.99, reference_params=2.2e9, reference_flops=3.8e12),
    mutate_adapters=False,
    max_population=16,
    bfloat16=False,
)  # fmt: skip

PLUS_VTAB_FULL = replace(PLUS_VIT, name="mu2net-plus-vtab-full", tasks=benchmarks.VTAB_FULL)
PLUS_VTAB_1K = replace(PLUS_VIT, name="mu2net-plus-vtab-1k", tasks=benchmarks.VTAB_1K)
