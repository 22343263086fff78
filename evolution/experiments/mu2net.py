"""μ2Net's experiments. Each shows all its values (EXPERIMENTS.md, Runs; Search spaces).

Command:  munet experiments run mu2net-cmaterdb --store STORE --seed 0
"""

from __future__ import annotations

from dataclasses import replace

from evolution.experiments import benchmarks, search_space
from evolution.experiments.experiment import Experiment
from evolution.experiments.weights import B_16, L_16, TI_16
from evolution.methods import MU2NET
from evolution.population import Score

# A random root without blocks at 32 px, which sees four patches of an image.
MU2NET_CMATERDB = Experiment(
    name="mu2net-cmaterdb",
    method=MU2NET,
    tasks=benchmarks.CMATERDB,
    passes=2,
    samples_per_task=32,
    root="random:Ti/16",
    batch_size=512,
    train_examples_per_round=51_200,
    children_per_generation=8,
    replicas=8,
    rounds_per_child=4,
    validation_examples=5_120,
    defaults={
        "_mu_": 0.2, "num_layers": 0, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.01, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 32, "ds_crop": True, "ds_area_range_min": 0.05,
        "ds_aspect_ratio_range_min": 0.75, "ds_flip_left_right": True, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges={**search_space.MU2NET_V2, "num_layers": (0, 1, 2, 3)},
    score=Score(),
    mutate_adapters=False,
    max_population=None,
    bfloat16=False,
)  # fmt: skip

MU2NET_CHARS = Experiment(
    name="mu2net-chars",
    method=MU2NET,
    tasks=benchmarks.CHARS,
    passes=2,
    samples_per_task=64,
    root=TI_16,
    batch_size=512,
    train_examples_per_round=51_200,
    children_per_generation=8,
    replicas=8,
    rounds_per_child=5,
    validation_examples=5_120,
    defaults={
        "_mu_": 0.1, "num_layers": 3, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.01, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 32, "ds_crop": True, "ds_area_range_min": 0.05,
        "ds_aspect_ratio_range_min": 0.75, "ds_flip_left_right": True, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges=search_space.MU2NET_V1,
    score=Score(),
    mutate_adapters=True,
    max_population=None,
    bfloat16=False,
)  # fmt: skip

MU2NET_VDD = Experiment(
    name="mu2net-vdd",
    method=MU2NET,
    tasks=benchmarks.VDD,
    passes=2,
    samples_per_task=64,
    root=B_16,
    batch_size=256,
    train_examples_per_round=51_200,
    children_per_generation=8,
    replicas=8,
    rounds_per_child=30,
    validation_examples=5_120,
    defaults={
        "_mu_": 0.1, "num_layers": 12, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.01, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 80, "ds_crop": True, "ds_area_range_min": 0.05,
        "ds_aspect_ratio_range_min": 0.75, "ds_flip_left_right": True, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges=search_space.MU2NET_V1,
    score=Score(reference_params=85_652_738),
    mutate_adapters=True,
    max_population=None,
    bfloat16=False,
)  # fmt: skip

MU2NET_VIT = Experiment(
    name="mu2net-vit",
    method=MU2NET,
    tasks=benchmarks.VIT,
    passes=1,
    samples_per_task=128,
    root=L_16,
    batch_size=64,
    train_examples_per_round=128_116,
    children_per_generation=32,
    replicas=32,
    rounds_per_child=4,
    validation_examples=10_000,
    defaults={
        "_mu_": 0.2, "num_layers": 24, "adapters": [], "adapter_dim": 16,
        "opt_lr": 0.01, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.05,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 384, "ds_crop": True, "ds_area_range_min": 0.05,
        "ds_aspect_ratio_range_min": 0.75, "ds_flip_left_right": True, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges=search_space.MU2NET_V2,
    score=Score(reference_params=303_303_682),
    mutate_adapters=False,
    max_population=None,
    bfloat16=False,
)  # fmt: skip

MU2NET_VTAB_FULL = replace(MU2NET_VIT, name="mu2net-vtab-full", tasks=benchmarks.VTAB_FULL)
MU2NET_VTAB_1K = replace(MU2NET_VIT, name="mu2net-vtab-1k", tasks=benchmarks.VTAB_1K)
