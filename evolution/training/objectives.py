"""How heads are trained and judged: one objective for each activation.

One class a picture: softmax, cross-entropy, accuracy. Several labels a picture: a sigmoid each,
binary cross-entropy, mean average precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray

from vit.activation import SIGMOID, SOFTMAX, sigmoid

EVALUATION_ROWS = 128  # images per step of the evaluation loop

Logits = Callable[[Array], Array]  # of rows [k]: [k, classes]


class Judged(NamedTuple):
    """Answers to some examples, and their labels."""

    found: Array  # logits [n, classes]
    labels: Array  # classes [n], or 0 and 1 [n, classes]
    rows: int  # how many of the first are real; the rest is padding


def joined(judged: Sequence[Judged]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """The logits [n, classes] and the labels of all real rows."""
    found = np.concatenate([np.asarray(each.found)[: each.rows] for each in judged])
    return found, np.concatenate([np.asarray(each.labels)[: each.rows] for each in judged])


def judge(logits: Logits, labels: Array, count: Array) -> tuple[Array, Array]:
    """The logits [n, classes] of the first `count` rows, then zeros; whether all are finite.

    `labels` [n, ...] tell the number of rows. Part of compiled programs.
    """
    at_once = min(EVALUATION_ROWS, len(labels))
    shape = jax.eval_shape(logits, jnp.arange(at_once)).shape

    def step(i: Array, found: Array) -> Array:
        rows = i * at_once + jnp.arange(at_once)
        real = (rows < count)[:, None]
        return found.at[rows].set(jnp.where(real, logits(rows).astype(jnp.float32), 0))

    steps = (count + at_once - 1) // at_once
    empty = jnp.zeros((len(labels), shape[-1]), jnp.float32)
    found = jax.lax.fori_loop(0, steps, step, empty)
    return found, jnp.isfinite(found).all()


@dataclass(frozen=True, slots=True)
class Objective:
    """How one kind of task is trained and judged."""

    metric: str  # what its quality is called in a path spec
    # The loss of each example [b], of logits [b, c] for `labels`: classes [b], or 0 and 1 [b, c].
    losses: Callable[[Array, Array], Array]
    quality: Callable[[Sequence[Judged]], float]  # from 0 to 1

    def loss(self, logits: Array, labels: Array) -> Array:
        """The mean loss of logits [b, c] for `labels`."""
        return self.losses(logits, labels).mean()

    def each_loss(self, judged: Sequence[Judged]) -> NDArray[np.float32]:
        """The loss of each real row [n]."""
        parts = (np.asarray(self.losses(j.found, j.labels))[: j.rows] for j in judged)
        return np.concatenate(list(parts))


def gain(before: NDArray[np.floating], after: NDArray[np.floating]) -> float:
    """How much smaller the losses [n] of the same examples became, in standard errors.

    It is the paired t statistic. A gain that all examples share exactly is infinite.
    """
    gained = np.asarray(before, np.float64) - np.asarray(after, np.float64)
    mean, error = gained.mean(), gained.std(ddof=1) / np.sqrt(len(gained)) if len(gained) > 1 else 0
    return float(mean / error) if error else float(np.sign(mean) * np.inf if mean else 0.0)


# ---- one class a picture


def cross_entropy(logits: Array, labels: Array) -> Array:
    """The losses [b] of logits [b, c] for classes [b]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _accuracy(judged: Sequence[Judged]) -> float:
    """The share of examples that are classified right.

    An example with a logit that is not finite counts as wrong.
    """
    logits, labels = joined(judged)
    right = np.isfinite(logits).all(-1) & (logits.argmax(-1) == labels)
    return int(right.sum()) / len(labels)


# ---- several labels a picture


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """The losses [b] of logits [b, c] for 0 and 1 [b, c]: sums over the labels.

    With the sum, a step moves the weights of one label as far as those of a class, for any number
    of labels.
    """
    each = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
    return each.sum(-1)


def _quality_of_scores(judged: Sequence[Judged]) -> float:
    """Mean average precision of the probabilities that the gateway would answer.

    0 if one of them is not a number, or if they are of other labels (a path that was trained on
    another set of the same name).
    """
    logits, wanted = joined(judged)
    if logits.shape != wanted.shape or not np.isfinite(logits).all():
        return 0.0
    return mean_average_precision(sigmoid(logits), wanted > 0)


def mean_average_precision(scores: NDArray[np.floating], wanted: NDArray[np.bool_]) -> float:
    """The mean of `average_precision` over the labels, of scores and wanted labels [n, labels].

    Labels that no example has do not count; 0 if no example has a label.
    """
    if scores.shape != wanted.shape:
        raise ValueError(f"expected scores of {wanted.shape}, found {scores.shape}")
    found = [
        average_precision(scores[:, label], wanted[:, label])
        for label in np.flatnonzero(wanted.any(0))
    ]
    return float(np.mean(found)) if found else 0.0


def average_precision(scores: NDArray[np.floating], wanted: NDArray[np.bool_]) -> float:
    """The mean precision at the wanted examples; scores and wanted [n].

    The precision at an example is the share of wanted ones among all with its score or more. Equal
    scores are taken together, so the order of the examples does not matter.
    """
    order = np.argsort(-scores)
    ordered, hits = scores[order], np.cumsum(wanted[order])
    last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(scores) - 1)  # of equals
    precision, new = hits[last] / (last + 1), np.diff(hits[last], prepend=0)
    return float((precision * new).sum() / hits[-1])


OBJECTIVES: Mapping[str, Objective] = {
    SOFTMAX: Objective("accuracy", cross_entropy, _accuracy),
    SIGMOID: Objective("mean_average_precision", binary_cross_entropy, _quality_of_scores),
}


def quality_in(part: Mapping[str, Any]) -> float | None:
    """The quality in a part of a path spec's metrics; None if there is no number."""
    for objective in OBJECTIVES.values():
        found = part.get(objective.metric)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return found
    return None
