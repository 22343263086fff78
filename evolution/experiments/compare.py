"""Methods compared on small tasks of three kinds, from the shipped root, at equal training steps.

METHOD-compare
    Eight tasks, half of them with a tenth of the pictures; training takes 8,000 pictures a task.
    munet, mu2net and mu2net-plus have the published defaults and ranges of Chars; fitted has
    defaults and ranges for small pictures, which its baselines share.
    Command:  make compare
METHOD-compare-full
    All eight data sets, each whole and cut to a tenth; training takes 32,000 pictures a task.
    Command:  make compare-full
"""

from __future__ import annotations

from dataclasses import replace

from evolution.experiments import benchmarks, small
from evolution.experiments.experiment import Experiment
from evolution.methods import FITTED
from evolution.population import Score

FITTED_COMPARE = Experiment(
    name="fitted-compare",
    method=FITTED,
    tasks=benchmarks.COMPARE,
    passes=1,
    samples_per_task=3,  # the first takes no step
    root="shipped",
    batch_size=32,
    train_examples_per_round=4_000,
    full_rounds=True,
    rounds_per_child=1,
    validation_examples=5_120,
    defaults={**small.DEMO.defaults, "_mu_": 0.5},
    ranges={
        "_mu_": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
        "opt_lr": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
        "opt_lr_warmup_ratio": (0.02, 0.05, 0.1, 0.2),
        "opt_momentum": (0.8, 0.85, 0.9, 0.95),
        "ds_area_range_min": (0.3, 0.5, 0.7, 1.0),
        "ds_aspect_ratio_range_min": (0.5, 0.75, 1.0),
        "ds_flip_left_right": (True, False),
        "ds_brightness_delta": (0.0, 0.05, 0.1, 0.2),
    },
    score=Score(),
)


def _as_long(published: Experiment) -> Experiment:
    """A published method with the sizes and tasks of the comparison."""
    return replace(
        FITTED_COMPARE,
        name=f"{published.method.name}-compare",
        method=published.method,
        samples_per_task=4,
        train_examples_per_round=2_000,
        defaults=published.defaults,
        ranges=published.ranges,
        mutate_adapters=published.mutate_adapters,
    )


COMPARE = (
    FITTED_COMPARE,
    _as_long(small.MUNET_CHARS5_PUBLISHED),
    _as_long(small.MU2NET_CHARS5_PUBLISHED),
    _as_long(small.PLUS_CHARS5_PUBLISHED),
)
COMPARE_FULL = tuple(
    replace(
        experiment,
        name=f"{experiment.name}-full",
        tasks=benchmarks.COMPARE_FULL,
        samples_per_task=2 * experiment.samples_per_task - experiment.method.fits_heads,
        train_examples_per_round=2 * experiment.train_examples_per_round,
    )
    for experiment in COMPARE
)
