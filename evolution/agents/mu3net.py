"""The classes of μ3Net: single-path agents that follow μ2Net+. Each shows all its values."""

from __future__ import annotations

from evolution.experiments import search_space
from evolution.experiments.experiment import Experiment
from evolution.experiments.weights import B_16, L_16, TI_16
from evolution.methods import MU3NET
from evolution.population import Score

VIT_T0 = Experiment(
    name="vit-ti0",
    method=MU3NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=16,
    root="random:Ti/16",
    batch_size=512,
    train_examples_per_round=51_200,
    children_per_generation=8,
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

VIT_T3 = Experiment(
    name="vit-ti3",
    method=MU3NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=32,
    root=TI_16,
    batch_size=512,
    train_examples_per_round=51_200,
    children_per_generation=8,
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

VIT_B = Experiment(
    name="vit-b",
    method=MU3NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=32,
    root=B_16,
    batch_size=128,
    train_examples_per_round=51_200,
    children_per_generation=8,
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

VIT_L = Experiment(
    name="vit-l",
    method=MU3NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=16,
    root=L_16,
    batch_size=16,
    train_examples_per_round=100_000,
    children_per_generation=8,
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
