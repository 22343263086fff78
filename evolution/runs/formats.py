"""Numbers in what commands print."""

from __future__ import annotations

from evolution.data.confidence import interval
from evolution.data.errors import counted

ACCURACY = "accuracy"  # the metric of tasks of one class a picture


def share(value: float, digits: int = 3) -> str:
    """A number from 0 to 1 without its leading zero: .938."""
    return f"{value:.{digits}f}".removeprefix("0")


def spread(accuracy: float, examples: int) -> str:
    """Half of the interval of an accuracy: .02."""
    low, high = interval(accuracy, examples)
    return share((high - low) / 2, 2)


def measured(quality: float, metric: str, examples: int) -> str:
    """A quality; an accuracy with its interval."""
    pictures = counted(examples, "picture")
    if metric != ACCURACY:
        return f"{share(quality)} {metric.replace('_', ' ')} ({pictures})"
    low, high = interval(quality, examples)
    return f"{share(quality)} ({share(low)} to {share(high)}, {pictures})"


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    seconds = round(seconds)
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
