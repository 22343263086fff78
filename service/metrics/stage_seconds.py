"""How long requests were in each stage: one instrument that counts a whole request at once.

One histogram of prometheus_client for each stage took four times as long in a profile of the event
loop. Answered requests are counted by task, once each: those for more than one as `(several)`.
Refused and failed ones have no task, so that their series are there from the start. Tasks that not
everybody may know of are counted a second time as `(other)`, for the page for everybody.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from service.metrics.task_requests import OTHER
from service.request import STAGES, TOTAL

OUTCOMES = ("answered", "refused", "failed")
ANSWERED = OUTCOMES[0]
SEVERAL = "(several)"  # for the label `task`: of a request for more than one
NO_TASK = ""
Stages = dict[str, tuple[list[int], list[float]]]  # in each bucket, and the sum
Series = tuple[str, str]  # task and outcome


class StageSeconds(Collector):
    """A histogram with the labels `task`, `stage` and `outcome`."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        """`bounds` are the upper ones of its buckets, ascending; the last bucket has none."""
        self._name, self._text = name, text
        self._bounds = tuple(bounds)
        self._lock = threading.Lock()
        self._hidden = self._empty()
        self._series: dict[Series, Stages] = {
            (NO_TASK, outcome): self._empty() for outcome in OUTCOMES[1:]
        }

    def _empty(self) -> Stages:
        return {stage: ([0] * (len(self._bounds) + 1), [0.0]) for stage in (*STAGES, TOTAL)}

    def add(self, label: str, outcome: str, seconds: Mapping[str, float], *, public: bool) -> None:
        """Counts a request; if it was not answered, only the stages that it came to."""
        every = outcome == ANSWERED
        key = (label if every else NO_TASK), outcome
        with self._lock:
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = self._empty()
            into = (series,) if public or not every else (series, self._hidden)
            for stage, duration in seconds.items():
                if every or duration:
                    place = bisect_left(self._bounds, duration)
                    for one in into:
                        counts, total = one[stage]
                        counts[place] += 1
                        total[0] += duration

    def forget(self, label: str) -> None:
        """Removes what is counted for a task."""
        with self._lock:
            self._series.pop((label, ANSWERED), None)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """As Prometheus reads it."""
        yield self._family(self._series.items)

    def public(self, shown: Callable[[str], bool]) -> Iterator[HistogramMetricFamily]:
        """The labels that everybody may see, and all others together."""

        def found() -> Iterable[tuple[Series, Stages]]:
            for key, stages in self._series.items():
                if key[0] in (NO_TASK, SEVERAL) or shown(key[0]):
                    yield key, stages
            yield (OTHER, ANSWERED), self._hidden

        yield self._family(found)

    def _family(
        self, series: Callable[[], Iterable[tuple[Series, Stages]]]
    ) -> HistogramMetricFamily:
        found = HistogramMetricFamily(self._name, self._text, labels=("task", "stage", "outcome"))
        bounds = [floatToGoString(bound) for bound in (*self._bounds, math.inf)]
        with self._lock:
            for (label, outcome), stages in series():
                for stage, (counts, total) in stages.items():
                    below = [sum(counts[: i + 1]) for i in range(len(counts))]
                    buckets = list(zip(bounds, below, strict=True))
                    found.add_metric((label, stage, outcome), buckets, total[0])
        return found
