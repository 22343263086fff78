"""Named experiments: method, tasks, sizes and search space.

mu2net-cmaterdb
    The configuration of the published preliminary μ2Net experiment (spec/mu2net.md §5, column
    ti0): a random Ti/16 root without blocks at 32 px, which sees four patches of an image. What
    differs is not configuration: one device, so one child in a generation; every pass over the
    data fully reshuffled; initial numbers of another generator.
    Command:  python -m evolution run mu2net-cmaterdb --store STORE --seed 0
    Expected: validation .83 to .92 per task; about 40 minutes on 2 cores.
demo
    What `make demo` runs: two of these tasks, and then the third, from the shipped Ti/8 root.
    Command:  python -m evolution run demo --store STORE
              python -m evolution resume demo --store STORE --task cmaterdb/telugu
    Expected: test accuracy about .95 on each task; about 1 minute a task on 2 cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolution.methods import MU2NET, Method
from evolution.population import Score
from evolution.roots import random_root, shipped_root
from vit import Architecture
from vit.components import Tree

Root = Callable[[], tuple[Architecture, dict[str, Tree]]]

# The published table "auto-tune v2" (spec/mu2net.md §5).
AUTO_TUNE_V2: Mapping[str, Sequence[Any]] = {
    "_mu_": (0.10, 0.12, 0.14, 0.16, 0.18, 0.20, 0.22, 0.24, 0.26, 0.28, 0.30),
    "opt_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    "opt_lr_warmup_ratio": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4),
    "opt_momentum": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99),
    "opt_nesterov": (True, False),
    "ds_area_range_min": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "ds_crop": (True, False),
    "ds_aspect_ratio_range_min": (0.25, 0.5, 0.75, 1.0),
    "ds_flip_left_right": (True, False),
    "ds_brightness_delta": (0.0, 0.01, 0.02, 0.05, 0.1, 0.2),
    "ds_contrast_delta": (0.0, 0.01, 0.02, 0.05, 0.1, 0.2),
    "ds_saturation_delta": (0.0, 0.01, 0.02, 0.05, 0.1, 0.2),
    "ds_hue_delta": (0.0, 0.01, 0.02, 0.05, 0.1, 0.2),
}

DEFAULTS: Mapping[str, Any] = {
    "_mu_": 0.2,
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
}


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that, with a seed, determines a run."""

    name: str
    method: Method
    tasks: tuple[str, ...]  # TFDS names; `private:` before one that nobody may start from
    passes: int  # how often the task list is gone through
    samples_per_task: int  # children per task iteration
    root: Root
    batch_size: int
    train_examples_per_round: int  # cap
    rounds_per_child: int  # each ends with a validation
    validation_examples: int  # cap
    defaults: Mapping[str, Any]
    ranges: Mapping[str, Sequence[Any]]
    score: Score
    mutate_adapters: bool = False  # whether children gain residual adapters

    def steps_per_round(self, train_examples: int) -> int:
        """Training steps between two validations."""
        return math.ceil(min(train_examples, self.train_examples_per_round) / self.batch_size)

    def validation_count(self, available: int) -> int:
        """How many validation examples are used: whole batches of equal size (munet.md §2)."""
        cap = self.validation_examples // self.batch_size * self.batch_size
        if cap <= available:
            return cap
        batches = math.ceil(available / self.batch_size)
        return available // batches * batches


def _random_ti16_without_blocks() -> tuple[Architecture, dict[str, Tree]]:
    arch = Architecture.named("Ti", patch_size=16, image_size=32, num_layers=0, num_classes=1)
    return arch, random_root(arch)


MU2NET_CMATERDB = Experiment(
    name="mu2net-cmaterdb",
    method=MU2NET,
    tasks=("cmaterdb/bangla", "cmaterdb/devanagari", "private:cmaterdb/telugu"),
    passes=2,
    samples_per_task=32,
    root=_random_ti16_without_blocks,
    batch_size=512,
    train_examples_per_round=51_200,
    rounds_per_child=4,
    validation_examples=5_120,
    defaults={**DEFAULTS, "num_layers": 0},
    ranges={**AUTO_TUNE_V2, "num_layers": (0, 1, 2, 3)},
    score=Score(),
)

DEMO = Experiment(
    name="demo",
    method=MU2NET,
    tasks=("cmaterdb/bangla", "cmaterdb/devanagari"),
    passes=1,
    samples_per_task=4,
    root=shipped_root,
    batch_size=128,
    train_examples_per_round=2_000,
    rounds_per_child=3,
    validation_examples=5_120,
    # The numerals fill their images: mirrored, or cut to less than half, they are other characters.
    defaults={
        **DEFAULTS,
        "opt_lr": 0.05,
        "ds_area_range_min": 0.7,
        "ds_flip_left_right": False,
    },
    ranges={
        "_mu_": (0.1, 0.15, 0.2, 0.25, 0.3),
        "opt_lr": (0.02, 0.05, 0.1, 0.2),
        "opt_lr_warmup_ratio": (0.02, 0.05, 0.1, 0.2),
        "opt_momentum": (0.8, 0.85, 0.9, 0.95),
        "opt_nesterov": (True, False),
        "ds_area_range_min": (0.5, 0.6, 0.7, 0.8),
        "ds_aspect_ratio_range_min": (0.65, 0.75, 0.85),
    },
    # A copied block costs the score up to 0.6 %, if the one it replaces was shared by many.
    score=Score(factor=0.98),
)

EXPERIMENTS: Mapping[str, Experiment] = {e.name: e for e in (MU2NET_CMATERDB, DEMO)}
