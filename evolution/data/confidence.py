"""How far a measured accuracy may be from the real one."""

from __future__ import annotations

import math

Z = 1.96  # of a 95 % interval


def interval(accuracy: float, examples: int) -> list[float]:
    """Wilson's 95 % interval of an accuracy that was measured on `examples` examples."""
    if not examples:
        return [0.0, 1.0]
    spread = Z * Z / examples
    middle = (accuracy + spread / 2) / (1 + spread)
    variance = accuracy * (1 - accuracy) / examples
    half = Z / (1 + spread) * math.sqrt(variance + spread / examples / 4)
    return [round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4)]
