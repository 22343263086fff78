"""The published search spaces: the values that each hyperparameter may take, in order.

EXPERIMENTS.md, Search spaces, compares them. A hyperparameter without a range keeps its default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Ranges = Mapping[str, Sequence[Any]]

DELTAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)

# muNet's auto-tune. muNet also tunes the number of blocks, always.
MUNET: Ranges = {
    "adapter_dim": (8, 16, 32, 64, 128),
    "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1),
    "opt_lr_schedule": ("constant", "cosine", "restarts"),
    "opt_lr_warmup_ratio": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4),
    "opt_momentum": (None, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
    "opt_nesterov": (True, False),
    "ds_image_size": tuple(range(16, 385, 16)),
    "ds_area_range_min": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "ds_aspect_ratio_range_min": (0.25, 0.5, 0.75, 1.0),
    "ds_flip_left_right": (True, False),
    "ds_brightness_delta": DELTAS,
    "ds_contrast_delta": DELTAS,
    "ds_saturation_delta": DELTAS,
    "ds_hue_delta": DELTAS,
}

# μ2Net's "auto-tune v1" (Chars, VDD) and "v2" (preliminary experiment and large benchmarks).
MU2NET_V1: Ranges = {
    "adapter_dim": (8, 16, 32, 64, 128),
    "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    "opt_lr_schedule": ("constant", "cosine", "restarts"),
    "opt_lr_warmup_ratio": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4),
    "opt_momentum": (None, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99),
    "opt_nesterov": (True, False),
    "ds_image_size": tuple(range(16, 385, 16)),
    "ds_area_range_min": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "ds_aspect_ratio_range_min": (0.25, 0.5, 0.75, 1.0),
    "ds_flip_left_right": (True, False),
    "ds_brightness_delta": DELTAS,
    "ds_contrast_delta": DELTAS,
    "ds_saturation_delta": DELTAS,
    "ds_hue_delta": DELTAS,
}
MU2NET_V2: Ranges = {
    "_mu_": (0.10, 0.12, 0.14, 0.16, 0.18, 0.20, 0.22, 0.24, 0.26, 0.28, 0.30),
    "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    "opt_lr_warmup_ratio": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4),
    "opt_momentum": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99),
    "opt_nesterov": (True, False),
    "ds_crop": (True, False),
    "ds_area_range_min": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "ds_aspect_ratio_range_min": (0.25, 0.5, 0.75, 1.0),
    "ds_flip_left_right": (True, False),
    "ds_brightness_delta": DELTAS,
    "ds_contrast_delta": DELTAS,
    "ds_saturation_delta": DELTAS,
    "ds_hue_delta": DELTAS,
}

# μ2Net+ and the single-path agents after it; block counts and image sizes differ by scale.
MU2NET_PLUS: Ranges = {
    "_mu_": tuple(round(0.02 * i, 2) for i in range(1, 16)),
    "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    "opt_lr_warmup_ratio": (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3),
    "opt_momentum": (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99),
    "opt_nesterov": (True, False),
    "ds_area_range_min": (0.05, 0.5, 0.95, 1.0),
    "ds_aspect_ratio_range_min": (0.5, 0.75, 1.0),
    "ds_flip_left_right": (True, False),
    "ds_brightness_delta": DELTAS,
    "ds_contrast_delta": DELTAS,
    "ds_saturation_delta": DELTAS,
    "ds_hue_delta": DELTAS,
    "ds_quality_delta": DELTAS,
}

# Every hyperparameter with its value unless an experiment changes it.
DEFAULTS: Mapping[str, Any] = {
    "_mu_": 0.1,
    "num_layers": 3,
    "adapters": [],
    "adapter_dim": 32,
    "opt_lr": 0.01,
    "opt_lr_schedule": "cosine",
    "opt_lr_warmup_ratio": 0.1,
    "opt_momentum": 0.9,
    "opt_nesterov": False,
    "ds_image_size": 32,
    "ds_crop": True,
    "ds_area_range_min": 0.05,
    "ds_aspect_ratio_range_min": 0.75,
    "ds_flip_left_right": True,
    "ds_brightness_delta": 0.0,
    "ds_contrast_delta": 0.0,
    "ds_saturation_delta": 0.0,
    "ds_hue_delta": 0.0,
    "ds_quality_delta": 0.0,
}
NO_AUGMENTATION: Mapping[str, Any] = {
    "ds_area_range_min": 1.0,
    "ds_aspect_ratio_range_min": 1.0,
    "ds_flip_left_right": False,
}

# The values of hyperparameters that a saved run does not have yet. When a default above changes,
# its former value goes here.
FORMER: Mapping[str, Any] = DEFAULTS
# Hyperparameters that define an architecture.
SHAPE = ("num_layers", "adapters", "adapter_dim", "ds_image_size")
