"""The classes of μ4Net: no adapters; one score for all sizes. Each shows all its values."""

from __future__ import annotations

from evolution.experiments import search_space
from evolution.experiments.experiment import Experiment
from evolution.experiments.weights import B_16, L_16, TI_16
from evolution.methods import MU4NET
from evolution.population import Score

VIT4_T3 = Experiment(
    name="vit4-ti3",
    method=MU4NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=16,
    root=TI_16,
    batch_size=512,
    train_examples_per_round=300_000,
    children_per_generation=8,
    rounds_per_child=4,
    validation_examples=10_000,
    defaults={
        "_mu_": 0.2, "num_layers": 3, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.02, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.02,
        "opt_momentum": 0.8, "opt_nesterov": True,
        "ds_image_size": 32, "ds_crop": True, "ds_area_range_min": 1.0,
        "ds_aspect_ratio_range_min": 1.0, "ds_flip_left_right": False, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges={
        **search_space.MU2NET_PLUS,
        "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        "ds_image_size": tuple(range(16, 113, 16)), "num_layers": (0, 1, 2, 3),
    },
    score=Score(factor=0.99, reference_params=2.2e9, reference_flops=3.8e12),
    mutate_adapters=False,
    max_population=5,
    bfloat16=False,
)  # fmt: skip

VIT4_B = Experiment(
    name="vit4-b",
    method=MU4NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=16,
    root=B_16,
    batch_size=256,
    train_examples_per_round=300_000,
    children_per_generation=8,
    rounds_per_child=4,
    validation_examples=10_000,
    defaults={
        "_mu_": 0.2, "num_layers": 12, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.02, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.02,
        "opt_momentum": 0.8, "opt_nesterov": True,
        "ds_image_size": 80, "ds_crop": True, "ds_area_range_min": 1.0,
        "ds_aspect_ratio_range_min": 1.0, "ds_flip_left_right": False, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges={
        **search_space.MU2NET_PLUS,
        "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        "ds_image_size": tuple(range(16, 113, 16)), "num_layers": tuple(range(0, 13)),
    },
    score=Score(factor=0.99, reference_params=2.2e9, reference_flops=3.8e12),
    mutate_adapters=False,
    max_population=5,
    bfloat16=False,
)  # fmt: skip

# One block more than the root has.
VIT4_L = Experiment(
    name="vit4-l",
    method=MU4NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=16,
    root=L_16,
    batch_size=16,
    train_examples_per_round=300_000,
    children_per_generation=8,
    rounds_per_child=4,
    validation_examples=10_000,
    defaults={
        "_mu_": 0.2, "num_layers": 24, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.02, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.02,
        "opt_momentum": 0.8, "opt_nesterov": True,
        "ds_image_size": 384, "ds_crop": True, "ds_area_range_min": 1.0,
        "ds_aspect_ratio_range_min": 1.0, "ds_flip_left_right": False, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges={
        **search_space.MU2NET_PLUS,
        "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        "ds_image_size": (224, 384), "num_layers": tuple(range(0, 26)),
    },
    score=Score(factor=0.99, reference_params=2.2e9, reference_flops=3.8e12),
    mutate_adapters=False,
    max_population=5,
    bfloat16=False,
)  # fmt: skip

# Multipath agents: shapes are those of their paths, the score is the quality.
MULTIVIT_T3 = Experiment(
    name="multivit-ti3",
    method=MU4NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=16,
    root=TI_16,
    batch_size=512,
    train_examples_per_round=300_000,
    children_per_generation=8,
    rounds_per_child=4,
    validation_examples=10_000,
    defaults={
        "_mu_": 0.2,
        "opt_lr": 0.02, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.02,
        "opt_momentum": 0.8, "opt_nesterov": True,
        "ds_crop": True, "ds_area_range_min": 1.0, "ds_aspect_ratio_range_min": 1.0,
        "ds_flip_left_right": False, "ds_brightness_delta": 0.0, "ds_contrast_delta": 0.0,
        "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0, "ds_quality_delta": 0.0,
        "router_init_main_path_weight": 0.8, "router_lr_mult": 0.05, "num_paths": 2,
    },
    ranges={
        **search_space.MU2NET_PLUS,
        "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        "router_lr_mult": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), "num_paths": (2, 3),
    },
    score=Score(reference_params=0.0),
    mutate_adapters=False,
    max_population=5,
    bfloat16=False,
)  # fmt: skip

MULTIVIT_B = Experiment(
    name="multivit-b",
    method=MU4NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=16,
    root=B_16,
    batch_size=256,
    train_examples_per_round=300_000,
    children_per_generation=8,
    rounds_per_child=4,
    validation_examples=10_000,
    defaults={
        "_mu_": 0.2,
        "opt_lr": 0.02, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.02,
        "opt_momentum": 0.8, "opt_nesterov": True,
        "ds_crop": True, "ds_area_range_min": 1.0, "ds_aspect_ratio_range_min": 1.0,
        "ds_flip_left_right": False, "ds_brightness_delta": 0.0, "ds_contrast_delta": 0.0,
        "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0, "ds_quality_delta": 0.0,
        "router_init_main_path_weight": 0.8, "router_lr_mult": 0.05, "num_paths": 2,
    },
    ranges={
        **search_space.MU2NET_PLUS,
        "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        "router_lr_mult": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), "num_paths": (2, 3),
    },
    score=Score(reference_params=0.0),
    mutate_adapters=False,
    max_population=5,
    bfloat16=False,
)  # fmt: skip

MULTIVIT_L = Experiment(
    name="multivit-l",
    method=MU4NET,
    tasks=(),  # the agent's one task
    passes=1,
    samples_per_task=16,
    root=L_16,
    batch_size=16,
    train_examples_per_round=300_000,
    children_per_generation=8,
    rounds_per_child=4,
    validation_examples=10_000,
    defaults={
        "_mu_": 0.2,
        "opt_lr": 0.02, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.02,
        "opt_momentum": 0.8, "opt_nesterov": True,
        "ds_crop": True, "ds_area_range_min": 1.0, "ds_aspect_ratio_range_min": 1.0,
        "ds_flip_left_right": False, "ds_brightness_delta": 0.0, "ds_contrast_delta": 0.0,
        "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0, "ds_quality_delta": 0.0,
        "router_init_main_path_weight": 0.8, "router_lr_mult": 0.05, "num_paths": 2,
    },
    ranges={
        **search_space.MU2NET_PLUS,
        "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        "router_lr_mult": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), "num_paths": (2, 3),
    },
    score=Score(reference_params=0.0),
    mutate_adapters=False,
    max_population=5,
    bfloat16=False,
)  # fmt: skip
