"""Logits -> the classes that an answer lists."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute.paths import LoadedPath
from service.errors import InternalError

TOP_K = 5  # classes listed where the request does not say


def probabilities(path: LoadedPath, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax over the classes, [classes]. Raises InternalError where logits are not finite."""
    exact = logits.astype(np.float64)
    if not math.isfinite(exact @ exact):  # of numbers that all were float32: it cannot overflow
        raise InternalError(f"task {path.published.task!r} gave numbers that are not finite")
    odds = np.exp(exact - exact.max())
    return odds / odds.sum()


def predictions(
    path: LoadedPath, logits: NDArray[np.float32], top_k: int | None
) -> list[dict[str, Any]]:
    """The most probable classes first; of equal ones, the first by index."""
    found = probabilities(path, logits)
    best = np.argsort(-found, kind="stable")[: top_k or TOP_K]
    return [
        {"label": path.labels[index], "index": index, "probability": probability}
        for index, probability in zip(best.tolist(), found[best].tolist(), strict=True)
    ]
