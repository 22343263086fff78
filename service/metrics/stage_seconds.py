"""How long requests were in each stage: one instrument that counts a whole request at once.

One histogram of prometheus_client for each stage took four times as long in a profile of the event
loop.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from service.request import STAGES, TOTAL

OUTCOMES = ("answered", "refused", "failed")


class StageSeconds(Collector):
    """A histogram with the labels `stage` and `outcome`."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        """`bounds` are the upper ones of its buckets, ascending; the last bucket has none."""
        self._name, self._text = name, text
        self._bounds = tuple(bounds)
        self._lock = threading.Lock()
        self._series = {  # in each bucket, and the sum
            outcome: {stage: ([0] * (len(bounds) + 1), [0.0]) for stage in (*STAGES, TOTAL)}
            for outcome in OUTCOMES
        }

    def add(self, outcome: str, seconds: Mapping[str, float]) -> None:
        """Counts a request; if it was not answered, only the stages that it came to."""
        series, every = self._series[outcome], outcome == OUTCOMES[0]
        with self._lock:
            for stage, duration in seconds.items():
                if every or duration:
                    counts, total = series[stage]
                    counts[bisect_left(self._bounds, duration)] += 1
                    total[0] += duration

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """As Prometheus reads it."""
        found = HistogramMetricFamily(self._name, self._text, labels=("stage", "outcome"))
        bounds = [floatToGoString(bound) for bound in (*self._bounds, math.inf)]
        with self._lock:
            for outcome, stages in self._series.items():
                for stage, (counts, total) in stages.items():
                    below = [sum(counts[: i + 1]) for i in range(len(counts))]
                    buckets = list(zip(bounds, below, strict=True))
                    found.add_metric((stage, outcome), buckets, total[0])
        yield found
