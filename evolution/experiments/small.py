"""Experiments for 2 cores, from the shipped root. Each shows all its values.

chars5-published, chars5-tuned
    Compares methods and baselines on the five data sets of Chars that are small downloads. The
    first has the defaults of the published Chars; in the second, learning rate and augmentation
    are tuned by hand for these five. Sizes are small in both.
    Command:  munet experiments run mu2net-chars5-tuned --store STORE --seed 0
demo
    What `make demo` runs: two tasks that are drawn, and then a third.
    Command:  munet experiments run demo --store STORE
              munet experiments resume demo --store STORE --task drawn/marks
fitted-stream, fitted-stream-alone
    20 small tasks in an order that the seed draws. In the second, no task can start from the path
    of an earlier one. `make stream` runs both and compares them.
    Command:  munet experiments run fitted-stream --store STORE --seed 0
"""

from __future__ import annotations

from dataclasses import replace

from evolution.experiments import benchmarks, mu2net, mu2net_plus, munet, search_space
from evolution.experiments.experiment import Experiment
from evolution.methods import FITTED, MU2NET, MU2NET_PLUS, MUNET
from evolution.population import Score

# Ranges have no sizes of images and adapters, whose values need compiled programs of their own.
# muNet tries each of up to 5 seeds first, so a task has 8 children.
MUNET_CHARS5_TUNED = Experiment(
    name="munet-chars5-tuned",
    method=MUNET,
    tasks=("mnist", "omniglot", "cmaterdb/bangla", "cmaterdb/devanagari", "cmaterdb/telugu"),
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
    ranges={
        "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1),
        "opt_lr_schedule": ("constant", "cosine", "restarts"),
        "opt_lr_warmup_ratio": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4),
        "opt_momentum": (None, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
        "opt_nesterov": (True, False), "ds_area_range_min": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        "ds_aspect_ratio_range_min": (0.25, 0.5, 0.75, 1.0), "ds_flip_left_right": (True, False),
        "ds_brightness_delta": search_space.DELTAS, "ds_contrast_delta": search_space.DELTAS,
        "ds_saturation_delta": search_space.DELTAS, "ds_hue_delta": search_space.DELTAS,
        "num_layers": (1, 2, 3),
    },
    score=Score(),
    mutate_adapters=True,
    max_population=None,
)  # fmt: skip

MU2NET_CHARS5_TUNED = Experiment(
    name="mu2net-chars5-tuned",
    method=MU2NET,
    tasks=("mnist", "omniglot", "cmaterdb/bangla", "cmaterdb/devanagari", "cmaterdb/telugu"),
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
    ranges={
        "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
        "opt_lr_schedule": ("constant", "cosine", "restarts"),
        "opt_lr_warmup_ratio": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4),
        "opt_momentum": (None, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99),
        "opt_nesterov": (True, False), "ds_area_range_min": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        "ds_aspect_ratio_range_min": (0.25, 0.5, 0.75, 1.0), "ds_flip_left_right": (True, False),
        "ds_brightness_delta": search_space.DELTAS, "ds_contrast_delta": search_space.DELTAS,
        "ds_saturation_delta": search_space.DELTAS, "ds_hue_delta": search_space.DELTAS,
    },
    score=Score(),
    mutate_adapters=True,
    max_population=None,
)  # fmt: skip

PLUS_CHARS5_TUNED = Experiment(
    name="mu2net-plus-chars5-tuned",
    method=MU2NET_PLUS,
    tasks=("mnist", "omniglot", "cmaterdb/bangla", "cmaterdb/devanagari", "cmaterdb/telugu"),
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

MUNET_CHARS5_PUBLISHED = replace(
    MUNET_CHARS5_TUNED, name="munet-chars5-published", defaults=munet.MUNET_CHARS.defaults
)
MU2NET_CHARS5_PUBLISHED = replace(
    MU2NET_CHARS5_TUNED, name="mu2net-chars5-published", defaults=mu2net.MU2NET_CHARS.defaults
)
PLUS_CHARS5_PUBLISHED = replace(
    PLUS_CHARS5_TUNED, name="mu2net-plus-chars5-published", defaults=mu2net_plus.PLUS_CHARS.defaults
)

# The characters fill their images: if mirrored, or cut to less than half, they become others.
# A copied block lowers the score by up to 0.6 % if many tasks share the original.
DEMO = Experiment(
    name="demo",
    method=FITTED,
    tasks=("drawn/shapes", "drawn/textures"),
    passes=1,
    samples_per_task=2,  # a head, then adapters
    root="shipped",
    batch_size=32,
    train_examples_per_round=4_000,
    full_rounds=True,
    rounds_per_child=1,
    validation_examples=5_120,
    defaults={
        "_mu_": 0.2, "num_layers": 3, "adapters": [], "adapter_dim": 32,
        "opt_lr": 0.05, "opt_lr_schedule": "cosine", "opt_lr_warmup_ratio": 0.1,
        "opt_momentum": 0.9, "opt_nesterov": False,
        "ds_image_size": 32, "ds_crop": True, "ds_area_range_min": 0.7,
        "ds_aspect_ratio_range_min": 0.75, "ds_flip_left_right": False, "ds_brightness_delta": 0.0,
        "ds_contrast_delta": 0.0, "ds_saturation_delta": 0.0, "ds_hue_delta": 0.0,
        "ds_quality_delta": 0.0,
    },
    ranges={
        "_mu_": (0.1, 0.15, 0.2, 0.25, 0.3),
        "opt_lr": (0.02, 0.05, 0.1, 0.2), "opt_lr_warmup_ratio": (0.02, 0.05, 0.1, 0.2),
        "opt_momentum": (0.8, 0.85, 0.9, 0.95), "opt_nesterov": (True, False),
        "ds_area_range_min": (0.5, 0.6, 0.7, 0.8), "ds_aspect_ratio_range_min": (0.65, 0.75, 0.85),
    },
    score=Score(factor=0.98),
    mutate_adapters=False,
    max_population=None,
)  # fmt: skip

# The same method with and without earlier tasks' paths: no task may start from a private one.
FITTED_STREAM = Experiment(
    name="fitted-stream",
    method=FITTED,
    tasks=benchmarks.STREAM,
    passes=1,
    samples_per_task=2,
    root="shipped",
    batch_size=32,
    train_examples_per_round=1_000,
    passes_per_round=4,
    rounds_per_child=1,
    validation_examples=5_120,
    defaults={**DEMO.defaults, "_mu_": 1.0},
    ranges={},
    score=Score(),
    shuffled=True,
)
FITTED_STREAM_ALONE = replace(
    FITTED_STREAM,
    name="fitted-stream-alone",
    tasks=tuple(f"private:{task}" for task in benchmarks.STREAM),
)
