"""Heads in closed form: the best linear classifier on what a body sees, by convex optimisation.

Penalised multinomial logistic regression, or one logistic regression a label for sigmoids. The
problem is convex: its result depends on the features alone, not on where it starts, and takes a
small part of the time of a training. The penalty is chosen by the loss of the validation examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy  # loads optimize at its first use
from numpy.typing import NDArray

from vit.activation import SIGMOID
from vit.components import Tree

Floats = NDArray[np.float64]
Loss = Callable[[Floats, Any], tuple[float, Floats]]

# Times the sum of squares of the weights of standardised features; each starts from the one before.
PENALTIES = (5e-2, 5e-3, 5e-4, 5e-5)
ITERATIONS = 40  # of each


class Seen(NamedTuple):
    """What the head reads of some examples, and their labels."""

    features: Floats  # [n, features]
    labels: NDArray[Any]  # classes [n], or 0 and 1 [n, classes]


class Fitted(NamedTuple):
    """A head, and the mean loss of the validation examples with it."""

    head: Tree
    loss: float
    flops: float = 0.0  # floating-point operations of the matrix products of fitting it


def fitted_head(activation: str, classes: int, train: Seen, validation: Seen) -> Fitted:
    """The head of the penalty that suits the validation examples best; float32 arrays.

    If a feature is not finite, no head is: training counts such a child as diverged.
    """
    if not (np.isfinite(train.features).all() and np.isfinite(validation.features).all()):
        kernel = np.full((train.features.shape[1], classes), np.nan, np.float32)
        return Fitted({"kernel": kernel, "bias": kernel[0]}, np.inf)
    loss = _binary if activation == SIGMOID else _multinomial
    mean, deviation = train.features.mean(0), train.features.std(0) + 1e-6
    x = (train.features - mean) / deviation
    asked = (validation.features - mean) / deviation
    weights = np.zeros((x.shape[1] + 1, classes))
    best: Fitted | None = None
    products = 0.0  # of the training features with a matrix of the head's size
    for penalty in PENALTIES:
        weights, evaluations = _minimum(loss, weights, x, train.labels, penalty)
        products += 2 * evaluations
        told, _ = loss(asked @ weights[:-1] + weights[-1], validation.labels)
        kernel = weights[:-1] / deviation[:, None]
        head = {"kernel": kernel, "bias": weights[-1] - mean @ kernel}
        if best is not None and told >= best.loss:
            break  # smaller penalties only fit the training examples better
        best = Fitted({k: v.astype(np.float32) for k, v in head.items()}, told)
    assert best is not None
    return best._replace(flops=products * 2 * x.size * classes)


def _minimum(
    loss: Loss, start: Floats, x: Floats, labels: NDArray[Any], penalty: float
) -> tuple[Floats, int]:
    """The weights [features + 1, classes], the last row of which is the bias.

    Also how often the loss was evaluated.
    """

    def objective(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(start.shape)
        value, slope = loss(x @ weights[:-1] + weights[-1], labels)
        down = np.vstack([x.T @ slope + 2 * penalty * weights[:-1], slope.sum(0)])
        return value + penalty * float((weights[:-1] ** 2).sum()), down.ravel()

    options = {"maxiter": ITERATIONS}
    found: Any = scipy.optimize.minimize(
        objective, start.ravel(), jac=True, method="L-BFGS-B", options=options
    )
    return found.x.reshape(start.shape), int(found.nfev)


def _multinomial(logits: Floats, labels: NDArray[Any]) -> tuple[float, Floats]:
    """The mean cross-entropy of logits [n, classes] for classes [n], and its slope by logits."""
    shifted = logits - logits.max(1, keepdims=True)
    odds = np.exp(shifted)
    total = odds.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    value = float((np.log(total[:, 0]) - shifted[rows, labels]).mean())
    slope = odds / total
    slope[rows, labels] -= 1
    return value, slope / len(labels)


def _binary(logits: Floats, labels: NDArray[Any]) -> tuple[float, Floats]:
    """The binary cross-entropy, summed over labels [n, classes], mean over examples; its slope."""
    value = np.logaddexp(0, logits) - logits * labels
    slope = 1 / (1 + np.exp(-np.clip(logits, -500, 500))) - labels
    return float(value.sum(1).mean()), slope / len(labels)
