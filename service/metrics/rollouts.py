"""What a gateway counts of roll-outs: of an alias's version, and of the live one next to it.

A roll-out's series are there as long as it is: a task has few at once. They name tasks, so the page
for everybody has only those of public tasks, and the switch for labels of tasks ends all of them.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

LABELS = ("task", "alias")  # of all series
LIVE, ALIAS, SHADOW = "live", "alias", "shadow"  # who answered
ANSWERED, FAILED, NON_FINITE, DROPPED = "answered", "failed", "non_finite", "dropped"
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)  # seconds


class Comparison:
    """The numbers of one roll-out; any thread."""

    def __init__(self, task: str, alias: str, weight: float) -> None:
        self.task, self.alias = task, alias
        self.weight = weight  # 0 when this gateway has stopped it
        self.stopped = ""  # why, if the store does not say so yet
        self._lock = threading.Lock()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[str, tuple[list[int], list[float]]] = {}  # by role: buckets, sum
        self._alike = [0, 0]  # answers of a shadow that differ, and that agree
        self._right: dict[str, list[int]] = {}  # by role: answers that were wrong, and right

    def count(self, role: str, outcome: str, seconds: float | None = None) -> None:
        """A request; `seconds` of one that was answered."""
        with self._lock:
            self._outcomes[role, outcome] += 1
            if seconds is not None:
                found = self._seconds.setdefault(role, ([0] * (len(BOUNDS) + 1), [0.0]))
                found[0][bisect_left(BOUNDS, seconds)] += 1
                found[1][0] += seconds

    def compare(self, agrees: bool) -> None:
        """An answer of a shadow with that of the live version."""
        with self._lock:
            self._alike[agrees] += 1

    def judge(self, role: str, right: bool) -> None:
        """An answer to an image whose labels are known."""
        with self._lock:
            self._right.setdefault(role, [0, 0])[right] += 1

    def judged(self) -> dict[str, tuple[int, int]]:
        """By role: how many answers are known to be wrong, and how many to be right."""
        with self._lock:
            return {role: (found[0], found[1]) for role, found in self._right.items()}

    def tried(self) -> tuple[int, int, int]:
        """How many requests its version got, failed, and answered with what is not finite."""
        with self._lock:
            found = [
                sum(self._outcomes[role, outcome] for role in (ALIAS, SHADOW))
                for outcome in (ANSWERED, FAILED, NON_FINITE)
            ]
        return sum(found), found[1], found[2]

    def compared(self) -> tuple[int, int]:
        """How many answers were compared, and how many of them agree."""
        with self._lock:
            return sum(self._alike), self._alike[1]

    def content(self) -> dict[str, Any]:
        """For JSON: requests by who answered and outcome, the mean milliseconds of those answered,
        how many of a shadow's answers were compared and agree, and how many answers to images
        whose labels are known were right.
        """
        outcomes, times = self.samples()
        requests: dict[str, dict[str, int]] = {}
        for role, outcome, count in outcomes:
            requests.setdefault(role, {})[outcome] = count
        compared, agree = self.compared()
        judged = self.judged()
        return {
            "stopped": self.stopped,
            "requests": requests,
            "mean_ms": {role: round(1e3 * total / sum(counts), 3) for role, counts, total in times},
            "compared": compared,
            "agree": agree,
            "labelled": {role: sum(found) for role, found in judged.items()},
            "right": {role: right for role, (_, right) in judged.items()},
        }

    def samples(self) -> tuple[list[tuple[str, str, int]], list[tuple[str, list[int], float]]]:
        """Requests by role and outcome; and by role how many were in each bucket, and the sum."""
        with self._lock:
            outcomes = [(*key, count) for key, count in self._outcomes.items()]
            times = [(role, list(counts), total[0]) for role, (counts, total) in
                     self._seconds.items()]  # fmt: skip
        return outcomes, times


def families(comparisons: Iterable[Comparison]) -> Iterator[Metric]:
    """The metrics of these roll-outs."""
    found = list(comparisons)
    yield from _of_requests(found)
    yield from _of_answers(found)


def _of_requests(comparisons: Iterable[Comparison]) -> Iterator[Metric]:
    """How many there are, who answers them, and how long that takes."""
    weight = GaugeMetricFamily(
        "munet_rollout_weight",
        "Share of a task's requests that the alias's version answers in this gateway.",
        labels=LABELS,
    )
    stopped = GaugeMetricFamily(
        "munet_rollout_stopped",
        "1 if this gateway has stopped a roll-out that the store still has under way.",
        labels=LABELS,
    )
    requests = CounterMetricFamily(
        "munet_rollout_requests",
        "Requests of tasks with a roll-out: role is who answered, live, alias or (to nobody) "
        "shadow; outcome is answered, failed, non_finite, or dropped in favour of others.",
        labels=(*LABELS, "role", "outcome"),
    )
    seconds = HistogramMetricFamily(
        "munet_rollout_duration_seconds",
        "Whole time of requests that live or alias answered; of shadow, the time of the engine "
        "that a copy took besides.",
        labels=(*LABELS, "role"),
    )
    bounds = [floatToGoString(bound) for bound in (*BOUNDS, math.inf)]
    for one in comparisons:
        labels = one.task, one.alias
        weight.add_metric(labels, one.weight)
        stopped.add_metric(labels, float(bool(one.stopped)))
        outcomes, times = one.samples()
        for role, outcome, count in outcomes:
            requests.add_metric((*labels, role, outcome), count)
        for role, counts, summed in times:
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            seconds.add_metric((*labels, role), buckets, summed)
    yield from (weight, stopped, requests, seconds)


def _of_answers(comparisons: Iterable[Comparison]) -> Iterator[Metric]:
    """How good the answers are."""
    compared = CounterMetricFamily(
        "munet_rollout_compared",
        "Answers of a shadow, by whether they agree with the live version's: the same most "
        "probable label, or the same labels from 0.5 on.",
        labels=(*LABELS, "agrees"),
    )
    labelled = CounterMetricFamily(
        "munet_rollout_labelled",
        "Answers to images that came with labels, by who answered and whether they are right.",
        labels=(*LABELS, "role", "right"),
    )
    for one in comparisons:
        labels = one.task, one.alias
        total, agree = one.compared()
        if total:
            compared.add_metric((*labels, "yes"), agree)
            compared.add_metric((*labels, "no"), total - agree)
        for role, (wrong, right) in one.judged().items():
            labelled.add_metric((*labels, role, "yes"), right)
            labelled.add_metric((*labels, role, "no"), wrong)
    yield from (compared, labelled)


class Comparisons:
    """A collector of Prometheus; `found` gives the roll-outs there are."""

    def __init__(self) -> None:
        self.found: Callable[[], Sequence[Comparison]] = tuple

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        return families(self.found())

    def public(self, shown: Callable[[str], bool]) -> Iterator[Metric]:
        """Those of tasks that everybody may see."""
        return families([one for one in self.found() if shown(one.task)])
