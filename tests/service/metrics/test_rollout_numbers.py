"""The numbers of a roll-out, as Prometheus reads them."""

from __future__ import annotations

import math

from service.metrics.rollouts import ALIAS, ANSWERED, FAILED, LIVE, Comparison, families


def test_each_time_counts_in_every_bucket_from_its_own_on() -> None:
    found = Comparison("a", "new", 0.5)
    times = [0.0005, 0.002, 0.004, 0.007, 0.02, 0.03, 0.07, 0.2, 0.3, 0.7, 2.0, 5.0, 20.0]
    for seconds in times:
        found.count(ALIAS, ANSWERED, seconds)
    found.count(LIVE, FAILED)
    (histogram,) = (one for one in families([found]) if one.name.endswith("duration_seconds"))
    buckets = {
        float(sample.labels["le"]): sample.value
        for sample in histogram.samples
        if sample.name.endswith("_bucket")
    }
    assert list(buckets) == sorted(buckets) and math.inf in buckets
    assert buckets == {bound: sum(time <= bound for time in times) for bound in buckets}
    assert list(buckets.values()) == list(range(1, len(times) + 1)), "a time in each"
