"""How far a path's probabilities can be believed: one temperature for its logits, and the error.

Networks are often too sure of themselves. Logits that are divided by a temperature give the same
order of classes, and other probabilities (Guo et al., arXiv 1706.04599).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # loads optimize at its first use
from numpy.typing import NDArray

from evolution.training.objectives import Judged, joined
from vit.activation import SIGMOID, SOFTMAX, sigmoid, softmax

BINS = 15  # of equal width, as in the paper
RANGE = 0.05, 20.0  # of a temperature
TOLERANCE = 1e-4  # of its logarithm

Answers = tuple[NDArray[np.float64], NDArray[Any]]  # logits [n, classes], and their labels


def calibration(
    activation: str, validation: Sequence[Judged], test: Sequence[Judged]
) -> dict[str, float]:
    """The temperature that fits the validation answers, and the error of the test answers.

    `ece_before` and `ece_after` are errors without and with it (`expected_error`). Empty where the
    answers are not finite, or are of other labels than those of the task.
    """
    fitted, measured = _answers(activation, validation), _answers(activation, test)
    if fitted is None or measured is None:
        return {}
    temperature = fitted_temperature(activation, *fitted)
    logits, labels = measured
    return {
        "temperature": temperature,
        "ece_before": expected_error(activation, logits, labels),
        "ece_after": expected_error(activation, logits / temperature, labels),
    }


def _answers(activation: str, judged: Sequence[Judged]) -> Answers | None:
    logits, labels = joined(judged)
    fits = logits.shape == labels.shape if activation == SIGMOID else labels.max() < logits.shape[1]
    return (logits.astype(np.float64), labels) if fits and np.isfinite(logits).all() else None


def fitted_temperature(activation: str, logits: NDArray[np.float64], labels: NDArray[Any]) -> float:
    """The temperature, within RANGE, of the smallest mean log loss.

    `logits` are [n, classes]; `labels` classes [n], or 0 and 1 [n, classes] for a sigmoid. One more
    example, whose label could be any, counts with them. Without it, a small set that is answered
    without a mistake would make all probabilities 0 and 1.
    """
    loss = _LOSSES[activation](logits, labels)
    found: Any = scipy.optimize.minimize_scalar(
        lambda x: loss(np.exp(x)),
        bounds=tuple(np.log(RANGE)),
        method="bounded",
        options={"xatol": TOLERANCE},
    )
    return float(np.exp(found.x))


def expected_error(activation: str, logits: NDArray[np.float64], labels: NDArray[Any]) -> float:
    """The expected calibration error, from 0 to 1.

    Answers are put into BINS by their probability. It is the mean difference, weighted by answers,
    between the mean probability of a bin and the share that is right. The answers of a softmax are
    the most probable classes; of a sigmoid, all labels of all pictures.
    """
    if activation == SIGMOID:
        told, right = sigmoid(logits).ravel(), labels.ravel() > 0
    else:
        odds = softmax(logits)
        told, right = odds.max(-1), odds.argmax(-1) == labels
    bins = np.minimum((told * BINS).astype(int), BINS - 1)
    sums = np.bincount(bins, told.astype(np.float64) - right, BINS)
    return float(np.abs(sums).sum() / len(told))


Loss = Callable[[float], float]  # of a temperature


def _softmax_loss(logits: NDArray[np.float64], labels: NDArray[Any]) -> Loss:
    centred = logits - logits.max(-1, keepdims=True)
    rows = len(logits)
    chosen = centred[np.arange(rows), labels].sum() + centred.mean()

    def loss(temperature: float) -> float:
        total = np.log(np.exp(centred / temperature).sum(-1)).sum()
        return float(total * (1 + 1 / rows) - chosen / temperature) / (rows + 1)

    return loss


def _sigmoid_loss(logits: NDArray[np.float64], labels: NDArray[Any]) -> Loss:
    rows = len(logits)
    chosen = (logits * (labels > 0)).sum() + logits.sum() / 2 / rows

    def loss(temperature: float) -> float:
        total = np.logaddexp(0, logits / temperature).sum()
        return float(total * (1 + 1 / rows) - chosen / temperature) / (rows + 1)

    return loss


_LOSSES: Mapping[str, Callable[[NDArray[np.float64], NDArray[Any]], Loss]] = {
    SOFTMAX: _softmax_loss,
    SIGMOID: _sigmoid_loss,
}
