"""Classes of agents for 2 cores, from the shipped root. Each shows all its values.

Those of chars5 have the sizes and defaults of `mu2net-plus-chars5-tuned`, which
`make compare-agents` compares with agents.
"""

from __future__ import annotations

from evolution.experiments import search_space
from evolution.experiments.experiment import Experiment
from evolution.methods import MU3NET, MU4NET
from evolution.population import Score

DEMO_VIT = Experiment(
    name="demo-vit",
    method=MU4NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=4,
    root="shipped",
    batch_size=128,
    train_examples_per_round=2_000,
    rounds_per_child=3,
    validation_examples=5_120,
    defaults={
        "_mu_": 0.2, "num_layers": 3, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.05, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 32, "ds_crop": True, "ds_area_range_min": 1.0,
        "ds_aspect_ratio_range_min": 1.0, "ds_flip_left_right": False, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges={
        "_mu_": (0.1, 0.15, 0.2, 0.25, 0.3),
        "opt_lr": (0.02, 0.05, 0.1, 0.2), "opt_lr_warmup_ratio": (0.02, 0.05, 0.1, 0.2),
        "opt_momentum": (0.8, 0.85, 0.9, 0.95), "opt_nesterov": (True, False),
    },
    score=Score(factor=0.98),
    mutate_adapters=False,
    max_population=None,
)  # fmt: skip

DEMO_MULTIVIT = Experiment(
    name="demo-multivit",
    method=MU4NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=4,
    root="shipped",
    batch_size=128,
    train_examples_per_round=2_000,
    rounds_per_child=3,
    validation_examples=5_120,
    defaults={
        "_mu_": 0.2,
        "opt_lr": 0.05, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_crop": True, "ds_area_range_min": 1.0, "ds_aspect_ratio_range_min": 1.0,
        "ds_flip_left_right": False, "ds_brightness_delta": 0.0, "ds_contrast_delta": 0.0,
        "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0, "ds_quality_delta": 0.0,
        "router_init_main_path_weight": 0.8, "router_lr_mult": 0.05, "num_paths": 2,
    },
    ranges={
        "_mu_": (0.1, 0.15, 0.2, 0.25, 0.3),
        "opt_lr": (0.02, 0.05, 0.1, 0.2), "opt_lr_warmup_ratio": (0.02, 0.05, 0.1, 0.2),
        "opt_momentum": (0.8, 0.85, 0.9, 0.95), "opt_nesterov": (True, False),
        "router_lr_mult": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), "num_paths": (2, 3),
    },
    score=Score(reference_params=0.0),
    mutate_adapters=False,
    max_population=None,
)  # fmt: skip

CHARS5_VIT = Experiment(
    name="chars5-vit",
    method=MU3NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=8,
    root="shipped",
    batch_size=128,
    train_examples_per_round=1_024,
    rounds_per_child=3,
    validation_examples=1_024,
    defaults={
        "_mu_": 0.1, "num_layers": 3, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.05, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 32, "ds_crop": True, "ds_area_range_min": 1.0,
        "ds_aspect_ratio_range_min": 1.0, "ds_flip_left_right": False, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges={**search_space.MU2NET_PLUS, "num_layers": (0, 1, 2, 3)},
    score=Score(),
    mutate_adapters=True,
    max_population=None,
)  # fmt: skip

CHARS5_MULTIVIT = Experiment(
    name="chars5-multivit",
    method=MU4NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=8,
    root="shipped",
    batch_size=128,
    train_examples_per_round=1_024,
    rounds_per_child=3,
    validation_examples=1_024,
    defaults={
        "_mu_": 0.1,
        "opt_lr": 0.05, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_crop": True, "ds_area_range_min": 1.0, "ds_aspect_ratio_range_min": 1.0,
        "ds_flip_left_right": False, "ds_brightness_delta": 0.0, "ds_contrast_delta": 0.0,
        "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0, "ds_quality_delta": 0.0,
        "router_init_main_path_weight": 0.8, "router_lr_mult": 0.05, "num_paths": 2,
    },
    ranges={
        **search_space.MU2NET_PLUS,
        "router_lr_mult": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), "num_paths": (2, 3),
    },
    score=Score(reference_params=0.0),
    mutate_adapters=True,
    max_population=None,
)  # fmt: skip
