"""Requests by task: their number by status, and the time of those that were classified.

This instrument counts a request with one call; those of prometheus_client take five for each
number. Counts of tasks that not everybody may know of are kept a second time as `(other)`, so that
no sum on the page for everybody falls when such a task goes.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from service.metrics.openmetrics import Exemplars

# For the label `task`; no task can have such a name.
ALL = "(all)"  # tasks are not told apart
OTHER = "(other)"  # no task, or none that everybody may know of
REQUESTS = "munet_requests", "Requests to classify, by task and HTTP status."
SECONDS = "munet_request_duration_seconds", "Whole time of an answered request."


class Counted(NamedTuple):
    """What one label has counted since the start."""

    statuses: dict[int, int]  # requests by status
    buckets: tuple[int, ...]  # classified requests by their seconds


@dataclass(slots=True)
class _Series:
    """Of one task."""

    buckets: list[int]
    statuses: dict[int, int] = field(default_factory=dict)  # requests
    seconds: float = 0.0

    def add(self, status: int, place: int | None, seconds: float) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if place is not None:
            self.buckets[place] += 1
            self.seconds += seconds


class TaskRequests(Collector):
    """For one thread at a time, but for reading."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the upper ones of the buckets of seconds, ascending; the last has none."""
        self._bounds = tuple(bounds)
        self._series: dict[str, _Series] = {}
        self._hidden = self._empty()
        self._exemplars = Exemplars()

    def _empty(self) -> _Series:
        return _Series([0] * (len(self._bounds) + 1))

    def add(self, label: str, status: int, seconds: float | None, *, public: bool) -> None:
        """Counts a request; `seconds` are those of one that was classified."""
        place = None if seconds is None else bisect_left(self._bounds, seconds)
        series = self._series.get(label)
        if series is None:
            series = self._series[label] = self._empty()
        series.add(status, place, seconds or 0.0)
        if not public:
            self._hidden.add(status, place, seconds or 0.0)

    def exemplify(self, label: str, seconds: float, trace_id: str) -> None:
        """This trace is one of the classified requests that were counted for a label."""
        if label != OTHER and label in self._series:
            self._exemplars.note(label, bisect_left(self._bounds, seconds), seconds, trace_id)

    def forget(self, label: str) -> None:
        """Removes what is counted for a task."""
        self._series.pop(label, None)
        self._exemplars.forget(label)

    def counted(self) -> dict[str, Counted]:
        """The counts of every label; any thread."""
        return {
            label: Counted(dict(one.statuses), tuple(one.buckets))
            for label, one in list(self._series.items())
        }

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        return self._families(list(self._series.items()))

    def public(self, shown: Callable[[str], bool]) -> Iterator[Metric]:
        """The metrics of the labels that everybody may see, and of all others together."""
        found = [(label, one) for label, one in list(self._series.items()) if shown(label)]
        return self._families([*found, (OTHER, self._hidden)])

    def _families(self, series: Iterable[tuple[str, _Series]]) -> Iterator[Metric]:
        requests = CounterMetricFamily(*REQUESTS, labels=("task", "status"))
        seconds = HistogramMetricFamily(*SECONDS, labels=("task",))
        bounds = [floatToGoString(bound) for bound in (*self._bounds, math.inf)]
        exemplars = self._exemplars.by_label()
        for label, one in series:
            for status, count in list(one.statuses.items()):
                requests.add_metric((label, str(status)), count)
            below = [sum(one.buckets[: place + 1]) for place in range(len(bounds))]
            if below[-1]:
                buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = [
                    *zip(bounds, below, strict=True)
                ]
                for place, exemplar in exemplars.get(label, {}).items():
                    buckets[place] = bounds[place], below[place], exemplar
                seconds.add_metric((label,), buckets, one.seconds)
        yield requests
        yield seconds
