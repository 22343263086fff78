"""Whether a new version of a task goes live: one rule, and the choices of those who publish.

The law: a version goes live if no version is live, or if it is better than the live one by
validation on the same examples. If the two were measured on different examples, both are measured
again on the larger set. If that is not possible, the live version stays.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from evolution.data.images import TaskError
from evolution.data.tasks import Task
from evolution.training.batches import chunks
from evolution.training.objectives import Judged, judge
from evolution.training.validation import MEASURED, examples_in, part_of, quality_told, told_by
from model_store import DamagedStore, MissingComponent, ModelStore, Published, TaskPath
from vit import Architecture
from vit.activation import activation_of
from vit.components import Tree
from vit.contract import contract_of
from vit.decode import decoding_of
from vit.forward import forward
from vit.mixer import SubPath
from vit.preprocess import CONTRACT
from vit.router import multipath_forward

logger = logging.getLogger(__name__)

Qualities = tuple[float, float]  # the new version's and the live one's, on the same examples


@dataclass(frozen=True, slots=True)
class Promotion:
    """The choices that the rule leaves: what an equal version does, and one's own versions."""

    own_ties: bool  # an equal version replaces one of the same publisher
    other_ties: bool  # an equal version replaces one of another publisher
    own_by_score: bool  # on the same examples its own was compared already, by score: replaced

    def replaces(
        self, own: bool, same_examples: bool, qualities: Callable[[], Qualities | None]
    ) -> bool:
        """Whether a new version replaces the live one.

        `own`: the live version is of the same publisher. `qualities` gives None if the two cannot
        be compared.
        """
        if own and same_examples and self.own_by_score:
            return True
        found = qualities()
        if found is None:
            return False
        new, live = found
        return live < new or (live == new and (self.own_ties if own else self.other_ties))


RUN = Promotion(own_ties=True, other_ties=True, own_by_score=True)
# Not part of the system: if equal, the version that shares components stays.
BASELINE = Promotion(own_ties=False, other_ties=False, own_by_score=True)
AGENT = Promotion(own_ties=True, other_ties=False, own_by_score=False)
IMPORT = Promotion(own_ties=False, other_ties=False, own_by_score=False)


def qualities_told(new: TaskPath, live: TaskPath) -> Qualities:
    """The qualities that two versions carry, which the caller knows to be comparable."""
    return quality_told(new), quality_told(live)


def qualities(store: ModelStore, task: Task, ours: TaskPath, live: Published) -> Qualities | None:
    """Our quality and the live version's, on the same validation examples of the task.

    If they were measured on other examples, both are measured again on the larger set. None, with
    a log line, if the live version cannot be measured on the task's examples.
    """
    mine, theirs = told_by(ours), told_by(live.path)
    if mine and mine == theirs:
        return quality_told(ours), quality_told(live.path)
    told = part_of(live.path.metrics, MEASURED)
    counts = [examples_in(m) for m in (mine, told) if m.get("split") == mine.get("split")]
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
        found, _ = _judge(networks, params, images, labels, rows)
        judged.append(Judged(found, labels, rows))
    return task.objective.quality(judged)


@functools.partial(jax.jit, static_argnames="networks")
def _judge(
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

    return judge(logits, labels, jnp.asarray(count))
