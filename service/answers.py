"""Logits -> the classes that an answer lists, and their probabilities.

What a version's path spec calls its activation decides: softmax over its classes, one of which a
picture has; or a sigmoid for each of its labels, of which a picture has any number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute.paths import LoadedPath
from service.errors import InternalError
from vit.activation import SIGMOID, SOFTMAX, sigmoid

TOP_K = 5  # classes listed of a softmax where the request does not say; of sigmoids all are


def predictions(
    path: LoadedPath, logits: NDArray[np.float32], top_k: int | None, min_probability: float = 0.0
) -> list[dict[str, Any]]:
    """The most probable classes first; of equal ones, the first by index.

    At most `top_k` of them, and none that is less probable than `min_probability`. Raises
    InternalError where logits are not finite.
    """
    values: list[float] = logits.tolist()
    found = _LISTED[path.activation](path, values)
    usual = TOP_K if path.activation == SOFTMAX else len(values)
    best: list[int] = np.argsort(-logits, kind="stable")[: top_k or usual].tolist()
    return [
        {"label": path.labels[index], "index": index, "probability": found[index]}
        for index in best
        if found[index] >= min_probability
    ]


def probabilities(path: LoadedPath, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of all classes, [rows, classes]. Raises InternalError as `predictions` does."""
    if not np.isfinite(logits).all():
        raise _not_finite(path)
    return _ALL[path.activation](logits)


def _softmax_list(path: LoadedPath, values: list[float]) -> list[float]:
    """In plain Python, which is done with some hundred classes before NumPy is with its calls."""
    highest = max(values)
    odds = [math.exp(value - highest) for value in values]
    total = sum(odds)
    if not math.isfinite(total + min(values)):
        raise _not_finite(path)
    return [each / total for each in odds]


def _sigmoid_list(path: LoadedPath, values: list[float]) -> list[float]:
    return probabilities(path, np.array(values, np.float32)).tolist()


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exact = logits.astype(np.float64)
    odds = np.exp(exact - exact.max(-1, keepdims=True))
    return (odds / odds.sum(-1, keepdims=True)).astype(np.float32)


# By activation: of one image, for JSON; of a batch, for tensors.
_LISTED: Mapping[str, Callable[[LoadedPath, list[float]], list[float]]] = {
    SOFTMAX: _softmax_list,
    SIGMOID: _sigmoid_list,
}
_ALL: Mapping[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    SOFTMAX: _softmax,
    SIGMOID: sigmoid,
}


def _not_finite(path: LoadedPath) -> InternalError:
    return InternalError(f"task {path.published.task!r} gave numbers that are not finite")
