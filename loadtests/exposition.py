"""Reads the Prometheus text format and takes the increase between two readings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from loadtests.errors import ExpositionError


@dataclass(frozen=True, slots=True)
class Series:
    """What a sample belongs to."""

    name: str
    labels: frozenset[tuple[str, str]] = frozenset()


Samples = Mapping[Series, float]


@dataclass(frozen=True, slots=True)
class Histogram:
    """What a histogram observed between two readings."""

    bounds: tuple[float, ...]  # inclusive upper bounds, ascending, the last one infinite
    counts: tuple[float, ...]  # observations at or below each bound
    total: float  # sum of all observations

    @property
    def count(self) -> float:
        """Number of observations."""
        return self.counts[-1]

    @property
    def mean(self) -> float:
        """Mean observation, NaN when there is none."""
        return self.total / self.count if self.count else math.nan

    def quantile(self, q: float) -> float:
        """Interpolated inside its bucket, as Prometheus does; NaN when there is no observation.

        In the last bucket, which has no upper end, the answer is that bucket's lower end.
        """
        if not self.count:
            return math.nan
        rank = q * self.count
        place = next(i for i, count in enumerate(self.counts) if count >= rank)
        low = self.bounds[place - 1] if place else min(0.0, self.bounds[0])
        high = self.bounds[place]
        below = self.counts[place - 1] if place else 0.0
        inside = self.counts[place] - below
        if math.isinf(high) or not inside:
            return low
        return low + (high - low) * (rank - below) / inside


def parse(text: str) -> dict[Series, float]:
    """All samples of a metrics page. Raises ExpositionError."""
    # At its first import it chooses how to keep values: a worker of a gateway sets that before.
    from prometheus_client.parser import text_string_to_metric_families

    samples: dict[Series, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series = Series(sample.name, frozenset(sample.labels.items()))
                if series in samples:
                    raise ValueError(f"{sample.name} {sample.labels}: expected each series once")
                samples[series] = sample.value
    except (ValueError, IndexError, KeyError) as error:
        raise ExpositionError(f"reading metrics: {str(error)[:200]}") from error
    return samples


def increases(
    before: Samples, after: Samples, name: str, labels: Mapping[str, str]
) -> dict[Series, float]:
    """Increase of each series of `name` that has at least these labels; a new one starts at zero.

    Raises ExpositionError if one went down.
    """
    wanted = set(labels.items())
    grown: dict[Series, float] = {}
    for series, value in after.items():
        if series.name != name or not wanted <= series.labels:
            continue
        start = before.get(series, 0.0)
        # Where a page sums over processes, in any order, the last digits may waver.
        if value < start and not math.isclose(value, start):
            raise ExpositionError(
                f"comparing metrics: expected {name} to grow, found {start:g} before and "
                f"{value:g} after; the server restarted in between, so run again"
            )
        grown[series] = max(0.0, value - start)
    return grown


def counter_increase(before: Samples, after: Samples, name: str) -> float | None:
    """Increase of a counter over all its labels; None where the page does not have it."""
    grown = increases(before, after, name, {})
    return sum(grown.values()) if grown else None


def histogram_increase(
    before: Samples, after: Samples, name: str, labels: Mapping[str, str]
) -> Histogram | None:
    """What a histogram saw, summed over the labels not named; None where the page has none of it.

    Raises ExpositionError if its buckets are no buckets or any of it went down.
    """
    counts: dict[float, float] = {}
    for series, value in increases(before, after, f"{name}_bucket", labels).items():
        bound = _bound(series)
        counts[bound] = counts.get(bound, 0.0) + value
    if not counts:
        return None
    bounds = tuple(sorted(counts))
    if not math.isinf(bounds[-1]):
        raise ExpositionError(
            f'comparing metrics: expected {name} to end with the bucket le="+Inf", '
            f"found {bounds[-1]:g} as its last"
        )
    total = sum(increases(before, after, f"{name}_sum", labels).values())
    return Histogram(bounds, tuple(counts[bound] for bound in bounds), total)


def _bound(series: Series) -> float:
    text = dict(series.labels).get("le", "")
    try:
        return float(text)
    except ValueError:
        raise ExpositionError(
            f"comparing metrics: expected each {series.name} to have a number in the label le, "
            f"found {text!r}"
        ) from None
