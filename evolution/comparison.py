"""The examples that a quality was measured on. Only qualities of the same examples are compared.

Each quality in a state or a version carries the split, how many of its first examples were used,
and a digest of them. If two differ, or one lacks this, both paths are measured again on the larger
set. If that is not possible, the present version stays.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from evolution.data.images import Split, TaskError
from evolution.data.tasks import Task
from evolution.experiments.experiment import Experiment
from evolution.population import Path, Population
from evolution.training.batches import AnySplit, chunks
from evolution.training.objectives import Judged, Objective, quality_in
from model_store import DamagedStore, MissingComponent, ModelStore, Published, TaskPath
from vit import Architecture
from vit.activation import activation_of
from vit.components import Tree
from vit.contract import contract_of
from vit.decode import decoding_of
from vit.forward import forward
from vit.multipath import SubPath
from vit.preprocess import CONTRACT
from vit.router import multipath_forward

logger = logging.getLogger(__name__)

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
    split, digest, examples = told.get("split"), told.get("digest"), _examples(told)
    if not (isinstance(split, str) and isinstance(digest, str) and examples):
        return {}
    return {"split": split, "examples": examples, "digest": digest}


def quality_told(version: TaskPath) -> float:
    """A version's quality on its validation examples; -1 if it has none."""
    quality = quality_in(part_of(version.metrics, MEASURED))
    return -1.0 if quality is None else float(quality)


def _examples(told: Measured) -> int:
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
    counts = [_examples(t) for t in told if t.get("split") == task.validation.name]
    return min(max([experiment.validation_count(available), *counts]), available)


def measure_again(
    paths: Iterable[Path], measured: Measured, quality: Callable[[Path], float]
) -> None:
    """Measures paths again that were measured on other examples."""
    for path in paths:
        if path.metrics.get(MEASURED) != measured:
            path.quality, path.metrics[MEASURED] = quality(path), measured


# ---- versions measured again


def qualities(
    store: ModelStore, task: Task, ours: TaskPath, live: Published
) -> tuple[float, float] | None:
    """Our quality and the live version's, on the same validation examples of the task.

    If they were measured on other examples, both are measured again on the larger set. None, with
    a log line, if the live version cannot be measured on the task's examples.
    """
    mine, theirs = told_by(ours), told_by(live.path)
    if mine and mine == theirs:
        return quality_told(ours), quality_told(live.path)
    told = part_of(live.path.metrics, MEASURED)
    counts = [_examples(m) for m in (mine, told) if m.get("split") == mine.get("split")]
    count = min(max(counts, default=0) or len(task.validation), len(task.validation))
    try:
        found = tuple(_quality(store, task, version, count) for version in (ours, live.path))
    except (MissingComponent, DamagedStore, TaskError, ValueError, KeyError, TypeError) as error:
        logger.warning(
            "event=not_compared task=%s live=v%d error=%r: the live version stays; its quality is "
            "of other examples, and it cannot be measured on those of the task here",
            task.name, live.version, str(error)[:200],
        )  # fmt: skip
        return None
    logger.info(
        "event=measured_again task=%s split=%r examples=%d new=%.4f live=v%d live_quality=%.4f",
        task.name, task.validation.name, count, found[0], live.version, found[1],
    )  # fmt: skip
    return found[0], found[1]


def _quality(store: ModelStore, task: Task, version: TaskPath, count: int) -> float:
    """Raises ValueError for a network that does not fit the task, or is of another kind."""
    if (activation := activation_of(version.extra)) != task.activation:
        raise ValueError(f"expected {task.activation}, as the task has, found {activation}")
    if len(version.labels) != task.num_classes:
        raise ValueError(
            f"expected {task.num_classes} classes, as the task has, found {len(version.labels)}"
        )
    decoding = decoding_of(version.input)
    known, contract = {"size", "sizes", *decoding.to_json()}, contract_of(version.input)
    if not contract and {k: v for k, v in version.input.items() if k not in known} != CONTRACT:
        raise ValueError(f"expected images as {CONTRACT}, found {dict(version.input)}")
    validation = task.under(contract).validation.by(decoding)
    params = {name: store.component(digest) for name, digest in version.components.items()}
    networks = tuple(
        SubPath(Architecture.from_json(told["architecture"]), told["answers"] == "logits")
        for told in version.subpaths
    ) or Architecture.from_json(version.architecture)
    archs = [n.architecture for n in networks] if isinstance(networks, tuple) else [networks]
    sizes = sorted({arch.image_size for arch in archs})
    judged: list[Judged] = []
    # One stream of chunks for each image size; all have the same rows if cut for the largest.
    streams = [chunks(validation, count, size, sizes[-1]) for size in sizes]
    for parts in zip(*streams, strict=True):
        images = {size: chunk.inputs for size, chunk in zip(sizes, parts, strict=True)}
        labels, rows = parts[0].labels, parts[0].count
        found, _ = _judge(task.objective, networks, params, images, labels, rows)
        judged.append(Judged(found, labels, rows))
    return task.objective.quality(judged)


@functools.partial(jax.jit, static_argnames=("objective", "networks"))
def _judge(
    objective: Objective,
    networks: Architecture | tuple[SubPath, ...],
    params: dict[str, Tree],
    images: dict[int, Array],
    labels: Array,
    count: Array,
) -> tuple[Array, Array]:
    def logits(rows: Array) -> Array:
        chosen = {size: x[rows] for size, x in images.items()}
        if isinstance(networks, Architecture):
            return forward(networks, params, chosen[networks.image_size])
        return multipath_forward(networks, params, chosen)

    return objective.judge(logits, labels, jnp.asarray(count))
