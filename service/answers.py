"""Logits -> the classes that an answer lists."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute.paths import LoadedPath
from service.errors import InternalError

TOP_K = 5  # classes listed where the request does not say


def probabilities(path: LoadedPath, logits: NDArray[np.float32]) -> list[float]:
    """Softmax over the classes. Raises InternalError where logits are not finite.

    In plain Python, which is sooner done with a few hundred numbers than NumPy is with the calls.
    """
    values: list[float] = logits.tolist()
    highest, lowest = max(values), min(values)
    odds = [math.exp(value - highest) for value in values]
    total = sum(odds)
    if not math.isfinite(total + lowest):
        raise InternalError(f"task {path.published.task!r} gave numbers that are not finite")
    return [one / total for one in odds]


def predictions(
    path: LoadedPath, logits: NDArray[np.float32], top_k: int | None
) -> list[dict[str, Any]]:
    """The most probable classes first; of equal ones, the first by index."""
    found = probabilities(path, logits)
    best = sorted(range(len(found)), key=found.__getitem__, reverse=True)
    return [
        {"label": path.labels[index], "index": index, "probability": found[index]}
        for index in best[: top_k or TOP_K]
    ]
