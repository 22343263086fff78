"""Spans of a request and its stages, as a collector gets them over OTLP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler

from service.request import Exchange, Request, Timings
from service.telemetry.tracing import Tracing
from tests.service.collectors import Collector
from tests.service.waiting import PATIENCE_S

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


def tracing(url: str, sampler: Sampler | None = None) -> Tracing:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=1)))
    return Tracing(provider)


def exchange(**fields: Any) -> Exchange:
    now = time.monotonic()
    made = {"method": "POST", "path": "/classify/a", "client": "::1", "request_id": "r"}
    times = {"started": now - 1.0, "ended": now}
    return Exchange(**{**made, **times, "trace": {}, "route": "/classify/{task:path}", **fields})


def classified(found: Exchange) -> Request:
    """Received for 0.5 s, then decoded, queued and executed."""
    timings = Timings(found.started)
    timings.marks.append(("decode", found.started + 0.5))
    timings.queued, timings.running = found.started + 0.6, found.started + 0.8
    timings.ran = found.started + 0.95
    timings.follow()
    ran = {"versions": [3, None], "rows": 2, "batch_rows": 8, "batch_tasks": 4}
    return Request("http", ["a", "b"], timings, status=200, **ran)


def test_stages_follow_each_other_inside_the_request(collector: Collector) -> None:
    found = exchange(status=200)
    found.request = classified(found)
    traces = tracing(collector.url)
    traces.note(found)
    traces.stop()
    assert found.trace_id is not None
    request, *stages = collector.trace(found.trace_id)
    assert request.name == "POST /classify/{task:path}"
    assert request.kind == 2  # of a server
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["munet.tasks"] == ["a", "b"]
    assert request.attributes["munet.versions"] == [3, 0]
    assert request.end - request.start == pytest.approx(1e9, rel=1e-3)
    assert abs(request.end - time.time_ns()) < 60e9
    assert [stage.name for stage in stages] == ["receive", "decode", "queue", "execute", "answer"]
    assert (stages[0].start, stages[-1].end) == (request.start, request.end)
    assert {stage.parent for stage in stages} == {request.id}
    assert stages[-2].attributes == {"munet.batch.rows": 8, "munet.batch.tasks": 4}
    for before, after in pairwise(stages):
        assert abs(after.start - before.end) < 1e4  # rounding
    seconds = [(stage.end - stage.start) / 1e9 for stage in stages]
    assert seconds == pytest.approx([0.5, 0.1, 0.2, 0.15, 0.05], rel=1e-3)


def test_a_trace_that_the_request_names_goes_on(collector: Collector) -> None:
    found = exchange(trace={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    traces = tracing(collector.url, ParentBased(ALWAYS_OFF))
    traces.note(found)
    traces.stop()
    assert found.trace_id == TRACE
    (request,) = collector.trace(TRACE)
    assert request.parent == PARENT


@pytest.mark.parametrize("header", [f"00-{TRACE}-{PARENT}-00", None, "nonsense", "00-0-0-01"])
def test_what_is_not_sampled_is_not_sent(collector: Collector, header: str | None) -> None:
    found = exchange(trace={"traceparent": header} if header else {})
    found.request = classified(found)
    traces = tracing(collector.url, ParentBased(ALWAYS_OFF))
    traces.note(found)
    traces.stop()
    assert found.trace_id is None
    assert not collector.spans


def test_refusals_say_why_and_only_our_own_failures_are_errors(collector: Collector) -> None:
    refused = exchange(status=404, request=Request("http", ["x" * 500], refusal="unknown-task"))
    crashed = exchange(status=500, request=Request("http", ["a"], refusal="internal"))
    traces = tracing(collector.url)
    traces.note(refused)
    traces.note(crashed)
    traces.stop()
    spans = [collector.trace(found.trace_id or "") for found in (refused, crashed)]
    ((no_task, *refusal), (crash, *_)) = spans
    assert [stage.name for stage in refusal] == ["receive"]
    assert (no_task.status, no_task.attributes["error.type"]) == (0, "unknown-task")
    assert len(no_task.attributes["munet.tasks"][0]) == 200
    assert (crash.status, crash.attributes["error.type"]) == (2, "internal")


def test_a_collector_that_is_gone_costs_no_request_and_little_time_to_stop() -> None:
    with Collector() as gone:
        url = gone.url
    traces = tracing(url)
    for _ in range(100):
        traces.note(exchange())
    stopping = threading.Thread(target=traces.stop)
    stopping.start()
    stopping.join(PATIENCE_S)
    assert not stopping.is_alive()
