"""muNet's experiments. Its paper tunes the number of blocks; its ranges are "auto-tune".

Each shows all its values (EXPERIMENTS.md, Runs; Search spaces).
    Command:  munet experiments run munet-chars --store STORE --seed 0
"""

from __future__ import annotations

from dataclasses import replace

from evolution.experiments import benchmarks, search_space
from evolution.experiments.experiment import Experiment
from evolution.experiments.weights import B_16, L_16, TI_16
from evolution.methods import MUNET
from evolution.population import Score

MUNET_CMATERDB = Experiment(
    name="munet-cmaterdb",
    method=MUNET,
    tasks=benchmarks.CMATERDB,
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
    ranges={**search_space.MUNET, "num_layers": (1, 2, 3)},
    score=Score(),
    mutate_adapters=True,
    max_population=None,
    bfloat16=False,
)  # fmt: skip

MUNET_CHARS = Experiment(
    name="munet-chars",
    method=MUNET,
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
    ranges={**search_space.MUNET, "num_layers": (1, 2, 3)},
    score=Score(),
    mutate_adapters=True,
    max_population=None,
    bfloat16=False,
)  # fmt: skip

MUNET_VDD = Experiment(
    name="munet-vdd",
    method=MUNET,
    tasks=benchmarks.VDD,
    passes=2,
    samples_per_task=64,
    root=B_16,
    batch_size=256,
    train_examples_per_round=51_200,
    children_per_generation=8,
    replicas=8,
    rounds_per_child=30,
    validation_examples=2_560,
    defaults={
        "_mu_": 0.1, "num_layers": 12, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.01, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 80, "ds_crop": True, "ds_area_range_min": 0.05,
        "ds_aspect_ratio_range_min": 0.75, "ds_flip_left_right": True, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges={**search_space.MUNET, "num_layers": tuple(range(1, 13))},
    score=Score(reference_params=85_652_738),
    mutate_adapters=True,
    max_population=None,
    bfloat16=False,
)  # fmt: skip

MUNET_VIT = Experiment(
    name="munet-vit",
    method=MUNET,
    tasks=benchmarks.VIT,
    passes=32,
    samples_per_task=16,
    root=L_16,
    batch_size=32,
    train_examples_per_round=128_000,
    children_per_generation=8,
    replicas=8,
    rounds_per_child=2,
    validation_examples=9_984,
    defaults={
        "_mu_": 0.1, "num_layers": 24, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.01, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.05,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 384, "ds_crop": True, "ds_area_range_min": 0.05,
        "ds_aspect_ratio_range_min": 0.75, "ds_flip_left_right": True, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges=search_space.MUNET,
    score=Score(reference_params=303_303_682),
    mutate_adapters=True,
    max_population=None,
    bfloat16=False,
)  # fmt: skip

MUNET_VTAB_FULL = replace(MUNET_VIT, name="munet-vtab-full", tasks=benchmarks.VTAB_FULL)
MUNET_VTAB_1K = replace(MUNET_VIT, name="munet-vtab-1k", tasks=benchmarks.VTAB_1K)
