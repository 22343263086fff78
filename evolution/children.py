"""What a kind of path must offer, so that a cycle can evolve it.

There are two: single paths (single_path.py), and paths that mix others (multipath/).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from evolution.data.tasks import Task
from evolution.population import Path
from evolution.training.batches import Batches
from evolution.training.trainer import Round
from evolution.training.validation import Measured
from model_store import TaskPath


class Children(Protocol):
    """How the children of a cycle are made, trained and published."""

    task: Task
    measured: Measured  # the examples that a child is validated with

    def batches(self, seed: int, key: tuple[int, ...]) -> Batches:
        """Batches for the children of one generation."""
        ...

    def child(
        self, number: int, data_hp: dict[str, Any], rng: np.random.Generator
    ) -> tuple[Path, Path]:
        """Child `number` of this cycle, and its parent, which counts it."""
        ...

    def train(self, child: Path, batches: Batches) -> Iterator[Round]:
        """Trains a child, round by round. Does not change its components."""
        ...

    def tested(self, path: Path) -> dict[str, Any]:
        """What is measured of a path when its search is over: more of its metrics.

        `test_quality`, of its answers to the whole test split, and `calibration` (what
        evolution.training.calibration gives).
        """
        ...

    def spec(self, path: Path, run: str) -> TaskPath:
        """The path spec that a run or agent publishes; the path's components must be stored."""
        ...
