"""The reader of the Prometheus text format, against text that Prometheus' own client writes."""

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from loadtests import exposition
from loadtests.errors import ExpositionError
from loadtests.exposition import Series

TRICKY = 'quote " backslash \\ newline \n brace } comma , equals = line separator \u2028 tab \t end'
BOUNDS = (0.1, 0.2, 0.4)


def series(name: str, **labels: str) -> Series:
    return Series(name, frozenset(labels.items()))


def page(registry: CollectorRegistry) -> dict[Series, float]:
    return exposition.parse(generate_latest(registry).decode())


def test_reads_all_that_the_client_library_writes() -> None:
    registry = CollectorRegistry()
    Counter("hits", 'Help with "quotes" { } and\nlines', ["task"], registry=registry).labels(
        TRICKY
    ).inc(3)
    values = Gauge("value", "A gauge", ["kind"], registry=registry)
    for kind, value in {"inf": math.inf, "low": -math.inf, "nan": math.nan, "tiny": 1e-9}.items():
        values.labels(kind).set(value)
    Histogram("wait_seconds", "Waits", registry=registry, buckets=BOUNDS).observe(0.15)
    Gauge("plain", "No labels", registry=registry).set(-2.5)

    read = page(registry)
    written = {
        series(sample.name, **sample.labels): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    assert read.keys() == written.keys()
    assert read[series("hits_total", task=TRICKY)] == 3
    assert read == pytest.approx(written, nan_ok=True)


def test_reads_the_freedoms_of_the_format() -> None:
    text = '# a comment\n\n  a{ x = "1" , } 2 1700000000000\na 1e3\n\tb\t+Inf\n'
    assert exposition.parse(text) == {
        series("a", x="1"): 2,
        series("a"): 1000,
        series("b"): math.inf,
    }


@pytest.mark.parametrize(
    "line",
    [
        "<html>",
        "a",
        "a{} ",
        "a one",
        "a 1_000",
        "a 0x10",
        "1a 2",
        'a{x="1" 2',
        'a{x="1"y="2"} 2',
        'a{x="1",,} 2',
        "a{x=1} 2",
        'a{x="1",x="2"} 2',
    ],
)
def test_malformed_lines_are_refused(line: str) -> None:
    with pytest.raises(ExpositionError, match="reading metrics"):
        exposition.parse(f"fine 1\n{line}\n")


def test_a_series_given_twice_is_an_error() -> None:
    with pytest.raises(ExpositionError, match="each series once"):
        exposition.parse('a{x="1",y="2"} 1\na{y="2",x="1"} 1\n')


def test_a_histogram_is_the_difference_of_two_readings_summed_over_other_labels() -> None:
    registry = CollectorRegistry()
    waits = Histogram("wait", "Waits", ["stage", "task"], registry=registry, buckets=BOUNDS)
    for task in "abc":
        waits.labels("queue", task).observe(0.39)
    before = page(registry)
    for task, seconds in {"a": 0.05, "b": 0.15, "new": 0.3}.items():
        waits.labels("queue", task).observe(seconds)
    waits.labels("execute", "a").observe(7)
    waits.remove("queue", "c")

    seen = exposition.histogram_increase(before, page(registry), "wait", {"stage": "queue"})
    assert seen is not None
    assert seen.bounds == (*BOUNDS, math.inf)
    assert seen.counts == (1, 2, 3, 3)
    assert seen.count == 3
    assert seen.mean == pytest.approx((0.05 + 0.15 + 0.3) / 3)


def test_what_the_page_does_not_have_is_none() -> None:
    assert exposition.histogram_increase({}, {series("b"): 1}, "a", {}) is None
    assert exposition.counter_increase({}, {series("b"): 1}, "a") is None


def test_a_counter_grows_over_all_its_labels() -> None:
    before = {series("a_total", x="1"): 5.0}
    after = {series("a_total", x="1"): 7.0, series("a_total", x="2"): 3.0}
    assert exposition.counter_increase(before, after, "a_total") == 5


def test_a_counter_that_went_down_is_an_error() -> None:
    with pytest.raises(ExpositionError, match="restarted"):
        exposition.counter_increase({series("a"): 5.0}, {series("a"): 4.0}, "a")


def test_rounding_in_the_last_digit_is_no_restart() -> None:
    before, after = {series("a"): 0.1 + 0.2}, {series("a"): 0.3}
    assert exposition.counter_increase(before, after, "a") == 0


@pytest.mark.parametrize("bound", [{}, {"le": "wide"}, {"le": "1"}])
def test_buckets_must_be_buckets(bound: dict[str, str]) -> None:
    with pytest.raises(ExpositionError, match="le"):
        exposition.histogram_increase({}, {series("a_bucket", **bound): 1.0}, "a", {})


def histogram(*values: float) -> exposition.Histogram:
    registry = CollectorRegistry()
    waits = Histogram("wait", "Waits", registry=registry, buckets=BOUNDS)
    for value in values:
        waits.observe(value)
    seen = exposition.histogram_increase({}, page(registry), "wait", {})
    assert seen is not None
    return seen


@pytest.mark.parametrize(
    ("q", "expected"),
    [(0.25, 0.05), (0.5, 0.1), (0.625, 0.15), (0.75, 0.2), (0.875, 0.3), (1.0, 0.4)],
)
def test_quantiles_are_interpolated_inside_their_bucket(q: float, expected: float) -> None:
    # Four in (0, 0.1], two in (0.1, 0.2], two in (0.2, 0.4].
    assert histogram(*[0.05] * 4, *[0.15] * 2, *[0.3] * 2).quantile(q) == pytest.approx(expected)


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert histogram(0.05, 9, 9).quantile(0.5) == 0.4


def test_an_empty_histogram_has_no_mean_and_no_quantile() -> None:
    seen = histogram()
    assert math.isnan(seen.mean) and math.isnan(seen.quantile(0.5))
