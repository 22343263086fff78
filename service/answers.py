"""Logits -> the classes that an answer lists."""

from __future__ import annotations

import heapq
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute.paths import LoadedPath
from service.errors import InternalError

TOP_K = 5  # classes listed where the request does not say


def predictions(
    path: LoadedPath, logits: NDArray[np.float32], top_k: int | None
) -> list[dict[str, Any]]:
    """The most probable classes first; of equal ones, the first by index.

    Raises InternalError where logits are not finite. In plain Python, which is done with some
    hundred classes before NumPy is with its calls.
    """
    values: list[float] = logits.tolist()
    highest = max(values)
    odds = [math.exp(value - highest) for value in values]
    total = sum(odds)
    if not math.isfinite(total + min(values)):
        raise _not_finite(path)
    best = heapq.nlargest(top_k or TOP_K, range(len(values)), key=values.__getitem__)
    return [
        {"label": path.labels[index], "index": index, "probability": odds[index] / total}
        for index in best
    ]


def probabilities(path: LoadedPath, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the classes, [rows, classes]. Raises InternalError as `predictions` does."""
    exact = logits.astype(np.float64)
    if not np.isfinite(exact).all():
        raise _not_finite(path)
    odds = np.exp(exact - exact.max(-1, keepdims=True))
    return (odds / odds.sum(-1, keepdims=True)).astype(np.float32)


def _not_finite(path: LoadedPath) -> InternalError:
    return InternalError(f"task {path.published.task!r} gave numbers that are not finite")
