"""Exemplars: the trace of a recent request next to the bucket that counted it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from model_store import ModelStore
from service.metrics.instruments import SECONDS, Metrics
from service.metrics.openmetrics import Exemplars, is_wanted, recorded_trace
from service.request import Exchange, Request
from service.settings import Settings
from service.telemetry.reporting import Reporting
from service.telemetry.tracing import Tracing
from service.telemetry.workers import Worker
from tests.service.in_process import Gateway
from tests.service.systems import png, publish
from tests.service.waiting import eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"
RECORDED = f"00-{TRACE}-b7ad6b7169203331-01"
ASKS = {"accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3"}
NAME = "munet_request_duration_seconds"


def exemplars(page: str) -> list[tuple[dict[str, str], Any]]:
    """Labels and exemplar of each sample that has one, as a reader of OpenMetrics finds them."""
    return [
        (sample.labels, sample.exemplar)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.exemplar is not None and sample.name == f"{NAME}_bucket"
    ]


def ended(task: str = "a", seconds: float = 0.004, **fields: Any) -> Request:
    """A request that was classified."""
    made = {"status": 200, "rows": 1, "versions": [1], "seconds": {"total": seconds}, **fields}
    return Request("http", [task], **made)


def counted(*requests: Request) -> str:
    metrics = Metrics()
    for request in requests:
        for task in request.tasks:
            metrics.register(task)
    for request in requests:
        metrics.count(request)
    return metrics.exposition(with_exemplars=True).decode()


def test_a_recorded_trace_stands_next_to_its_bucket() -> None:
    page = counted(ended(seconds=0.004, traceparent=RECORDED), ended(seconds=0.2))
    ((labels, found),) = exemplars(page)
    assert (labels["task"], labels["le"]) == ("a", "0.005")
    assert found.labels == {"trace_id": TRACE}
    assert found.value == 0.004
    assert abs(float(found.timestamp) - time.time()) < 60


@pytest.mark.parametrize("fields", [
    {"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"},  # not recorded
    {"traceparent": "nonsense"},
    {"traceparent": RECORDED, "rows": 0, "status": 503},  # not classified, so in no bucket
    {"traceparent": RECORDED, "problems": {"a": 404}},
    {},
])  # fmt: skip
def test_other_requests_have_none(fields: dict[str, Any]) -> None:
    assert exemplars(counted(ended(), ended(**fields))) == []


@pytest.mark.parametrize(("header", "trace"), [
    (RECORDED, TRACE),
    (f"00-{TRACE}-b7ad6b7169203331-03", TRACE),
    (f"01-{TRACE}-b7ad6b7169203331-01-more", TRACE),
    (f"00-{TRACE}-b7ad6b7169203331-02", None),
    (f"ff-{TRACE}-b7ad6b7169203331-01", None),
    (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
    (f"00-{TRACE}-{'0' * 16}-01", None),
    (RECORDED.upper(), None),
    (RECORDED + '"} 1\nx', None),
    ("", None),
])  # fmt: skip
def test_which_header_names_a_recorded_trace(header: str, trace: str | None) -> None:
    assert recorded_trace(header) == trace


def test_only_the_last_of_each_bucket_is_kept_and_no_more_than_some() -> None:
    kept = Exemplars(most=3)
    for number in range(5):
        kept.note("a", 0, 0.1, f"{number:032x}")
    assert [one.labels["trace_id"] for one in kept.by_label()["a"].values()] == [f"{4:032x}"]
    for place in range(1, 4):
        kept.note("b", place, 0.1, TRACE)
    assert {label: list(found) for label, found in kept.by_label().items()} == {"b": [1, 2, 3]}
    kept.forget("b")
    assert kept.by_label() == {}


def test_the_older_format_is_as_before() -> None:
    metrics = Metrics()
    metrics.register("a")
    metrics.count(ended())
    before = metrics.exposition()
    metrics.trace(ended(), TRACE)
    page = metrics.exposition()
    assert [line for line in page.splitlines() if b"process_" not in line] == [
        line for line in before.splitlines() if b"process_" not in line
    ]
    assert TRACE.encode() not in page and list(plain_families(page.decode()))


def test_a_removed_task_takes_its_own_with_it() -> None:
    metrics = Metrics()
    metrics.register("a")
    metrics.count(ended(traceparent=RECORDED))
    metrics.forget("a")
    metrics.register("a")
    metrics.count(ended())
    assert exemplars(metrics.exposition(with_exemplars=True).decode()) == []


def test_a_private_task_shows_none_to_everybody() -> None:
    metrics = Metrics()
    metrics._public = lambda task: task == "open"
    for task in ("open", "hidden"):
        metrics.register(task)
        metrics.count(ended(task, traceparent=RECORDED))
    public = metrics.exposition(private=False, with_exemplars=True).decode()
    assert [labels["task"] for labels, _ in exemplars(public)] == ["open"]
    private = metrics.exposition(with_exemplars=True).decode()
    assert {labels["task"] for labels, _ in exemplars(private)} == {"hidden", "open"}


@pytest.mark.parametrize(("accept", "wanted"), [
    (ASKS["accept"], True),
    ("application/openmetrics-text", True),
    ("Application/OpenMetrics-Text ; version=0.0.1 ; q=1.0, */*;q=0.1", True),
    ("application/openmetrics-text;q=0.2,text/plain;q=0.3", False),
    ("application/openmetrics-text;q=0", False),
    ("application/openmetrics-text;q=nan", False),
    ("text/plain", False), ("*/*", False), ("", False),
    ("a," * 100 + "application/openmetrics-text", False),  # no more than some are looked at
])  # fmt: skip
def test_who_gets_openmetrics(accept: str, wanted: bool) -> None:
    assert is_wanted(accept) is wanted


@pytest.mark.parametrize(("sampler", "expected"), [(ALWAYS_ON, 1), (ALWAYS_OFF, 0)])
def test_a_trace_that_the_gateway_began_is_shown_if_it_is_kept(sampler: Any, expected: int) -> None:
    metrics = Metrics()
    metrics.register("a")
    reporting = Reporting(Settings("unused", tracing="http://127.0.0.1:9/v1/traces"), metrics, None)
    tracing = Tracing(TracerProvider(sampler=sampler, shutdown_on_exit=False))
    reports = [tracing.note, *reporting.reports[1:]]
    now = time.monotonic()
    request = ended()
    exchange = Exchange("POST", "/classify/a", "::1", "r", {}, started=now, ended=now + 0.004)
    exchange.request = request
    metrics.count(request)
    for report in reports:
        report(exchange)
    found = exemplars(metrics.exposition(with_exemplars=True).decode())
    assert [one.labels["trace_id"] for _, one in found] == [exchange.trace_id] * expected


def test_several_workers_show_theirs_on_one_page(tmp_path: Path) -> None:
    made: list[Reporting] = []
    for index in (1, 2):
        metrics = Metrics()
        metrics.register("a")
        metrics.count(ended(traceparent=RECORDED))
        made.append(Reporting(Settings("unused"), metrics, Worker(tmp_path, index)))
        made[-1].start()
    try:
        page = made[0].pages[True, True]().decode()
        assert page.count("# EOF") == 1 and page.endswith("# EOF\n")
        assert [labels["worker"] for labels, _ in exemplars(page)] == ["1", "2"]
        plain = made[1].pages[True, False]().decode()
        assert TRACE not in plain and "# EOF" not in plain
    finally:
        for one in made:
            one.stop()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    store = ModelStore(tmp_path_factory.mktemp("traced"), create=True)
    for task in ("plain", "second"):
        publish(store, task)
    made = Gateway(store, compilations)
    for task in ("plain", "second"):
        eventually(lambda task=task: made.classify(task, png(1)).status_code == 200)
    yield made
    made.close()


def page_of(gateway: Gateway, query: str = "", **headers: str) -> httpx.Response:
    response = gateway.request("GET", f"/metrics{query}", headers={**ASKS, **headers})
    assert response.status_code == 200
    return response


@pytest.mark.parametrize("path", ["/classify/plain", "/embed/plain", "/v2/models/plain/infer"])
def test_over_http(gateway: Gateway, path: str) -> None:
    trace = f"{abs(hash(path)):032x}"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    if path.startswith("/v2"):
        headers["inference-header-content-length"] = "0"
    assert gateway.request("POST", path, content=png(1), headers=headers).status_code == 200
    response = page_of(gateway)
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1")
    assert "accept" in response.headers["vary"]
    found = {one.labels["trace_id"]: (labels, one) for labels, one in exemplars(response.text)}
    labels, one = found[trace]
    assert labels["task"] == "plain"
    bounds = [0.0, *SECONDS, float("inf")]
    assert bounds[bounds.index(float(labels["le"])) - 1] < one.value <= float(labels["le"])


def test_for_each_task_of_a_request(gateway: Gateway) -> None:
    trace = "c" * 32
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    path = "/classify?task=plain&task=missing&task=second"
    assert gateway.request("POST", path, content=png(1), headers=headers).status_code == 200
    page = page_of(gateway).text
    tasks = [one["task"] for one, found in exemplars(page) if found.labels["trace_id"] == trace]
    assert sorted(tasks) == ["plain", "second"]
    chosen = page_of(gateway, "?task=second").text
    assert {one["task"] for one, _ in exemplars(chosen)} == {"second"}


def test_who_does_not_ask_gets_the_older_format(gateway: Gateway) -> None:
    plain = gateway.request("GET", "/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "trace_id" not in plain.text and "# EOF" not in plain.text
    names = {family.name for family in text_string_to_metric_families(page_of(gateway).text)}
    assert {family.name.removesuffix("_total") for family in plain_families(plain.text)} <= {
        name.removesuffix("_total") for name in names
    }
