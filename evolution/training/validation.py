"""The examples that a quality was measured on. Only qualities of the same examples are compared.

Each quality in a state or a version carries the split, how many of its first examples were used,
and a digest of them. Paths of other examples are measured again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np

from evolution.data.images import Split
from evolution.data.tasks import Task
from evolution.experiments.experiment import Experiment
from evolution.population import Path, Population
from evolution.training.batches import AnySplit
from evolution.training.objectives import quality_in
from model_store import TaskPath

MEASURED = "validation"  # among a path's metrics; in a version it has the quality too
Measured = Mapping[str, Any]  # split, examples, digest
_SAMPLES = 64  # images that a digest looks at; it has all labels of a split that is in memory


def measured_on(task: str, split: AnySplit, count: int) -> Measured:
    """The first `count` examples of a split. Raises TaskError where they cannot be read."""
    found = hashlib.sha256(f"{task}\n{split.name}\n{len(split)}\n{count}\n".encode())
    rows = np.unique(np.linspace(0, count - 1, _SAMPLES, dtype=np.int64))
    originals = split.originals if isinstance(split, Split) else split.examples
    if isinstance(split, Split):
        found.update(split.labels[:count].tobytes())
    if originals is not None:
        for record in originals.encoded(rows):
            found.update(hashlib.sha256(record).digest())
    elif isinstance(split, Split):
        found.update(split.images[rows].tobytes())
    return {"split": split.name, "examples": count, "digest": f"sha256:{found.hexdigest()}"}


def part_of(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One part of a path's metrics; empty if it is not an object.

    Other programs publish too, and the store accepts any JSON as metrics.
    """
    found = metrics.get(name)
    return cast(Mapping[str, Any], found) if isinstance(found, Mapping) else {}


def number_in(part: Mapping[str, Any], name: str) -> float | None:
    """A number in a part of the metrics; None if it is not a number."""
    found = part.get(name)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def told_by(version: TaskPath) -> Measured:
    """The examples that a version's quality was measured on; empty if some of it is missing."""
    told = part_of(version.metrics, MEASURED)
    split, digest, examples = told.get("split"), told.get("digest"), examples_in(told)
    if not (isinstance(split, str) and isinstance(digest, str) and examples):
        return {}
    return {"split": split, "examples": examples, "digest": digest}


def quality_told(version: TaskPath) -> float:
    """A version's quality on its validation examples; -1 if it has none."""
    quality = quality_in(part_of(version.metrics, MEASURED))
    return -1.0 if quality is None else float(quality)


def examples_in(told: Measured) -> int:
    """How many examples were used; 0 if unknown."""
    return max(0, int(number_in(told, "examples") or 0))


def compared(population: Population, owner: str, task: str, own_only: bool) -> list[Path]:
    """The paths that an owner's children of a task may be compared with."""
    return [
        path
        for path in population
        if path.quality is not None
        and (path.owner == owner or (path.task == task and not own_only))
    ]


def validation_count(experiment: Experiment, task: Task, compared: Iterable[Path]) -> int:
    """How many examples to validate with: the setting, or the most that a path was measured on.

    So a smaller setting cannot make a path look better than earlier ones.
    """
    available = len(task.validation)
    told = (part_of(path.metrics, MEASURED) for path in compared)
    counts = [examples_in(t) for t in told if t.get("split") == task.validation.name]
    return min(max([experiment.validation_count(available), *counts]), available)


def measure_again(
    paths: Iterable[Path], measured: Measured, quality: Callable[[Path], float]
) -> None:
    """Measures paths again that were measured on other examples."""
    for path in paths:
        if path.metrics.get(MEASURED) != measured:
            path.quality, path.metrics[MEASURED] = quality(path), measured
