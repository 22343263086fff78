"""Series exist for registered tasks only."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import pytest
from prometheus_client.core import Metric

from model_store import InvalidName
from model_store.names import require_name
from service import VERSION
from service.metrics.gauges import Snapshot
from service.metrics.instruments import Metrics
from service.metrics.stage_seconds import SEVERAL
from service.metrics.task_requests import ALL, OTHER
from service.request import Request

SECONDS = 0.007


def tasks_in(metrics: Metrics) -> set[str]:
    return {
        sample.labels["task"]
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.labels.get("task")
    }


def test_a_registered_task_has_its_own_series() -> None:
    metrics = Metrics()
    metrics.register("a")
    metrics.answered(["a"], 200, SECONDS)
    value = metrics.registry.get_sample_value
    assert value("munet_requests_total", {"task": "a", "status": "200"}) == 1
    assert value("munet_request_duration_seconds_sum", {"task": "a"}) == SECONDS


def test_names_nobody_registered_are_one_series() -> None:
    metrics = Metrics()
    for i in range(1000):
        metrics.answered([f"junk{i}"], 404, None)
    assert tasks_in(metrics) == {"(other)"}
    labels = {"task": "(other)", "status": "404"}
    assert metrics.registry.get_sample_value("munet_requests_total", labels) == 1000


def test_no_task_can_be_named_as_a_series_of_several() -> None:
    """Two series of the same labels would make the page unreadable."""
    for label in (ALL, OTHER, SEVERAL):
        with pytest.raises(InvalidName):
            require_name("task", label)


def test_a_forgotten_task_takes_its_series_with_it() -> None:
    metrics = Metrics()
    for task in ("a", "b"):
        metrics.register(task)
        for status in (200, 429, 503):
            metrics.answered([task], status, SECONDS)
    metrics.forget("a")
    assert tasks_in(metrics) == {"b"}
    metrics.answered(["a"], 200, SECONDS)  # a request that was still running
    assert tasks_in(metrics) == {"b", "(other)"}


def ended(*tasks: str, status: int = 200) -> Request:
    """A request that has ended."""
    request = Request("http", tasks)
    request.status, request.rows = status, 1
    request.end()
    return request


def stage_tasks(families: Iterable[Metric]) -> dict[str, float]:
    """How many requests the stage `total` has, by task and outcome."""
    return {
        f"{sample.labels['task']} {sample.labels['outcome']}": sample.value
        for metric in families
        for sample in metric.samples
        if sample.name == "munet_stage_duration_seconds_count" and sample.value
        if sample.labels["stage"] == "total"
    }


def test_stages_are_counted_by_task_once_a_request() -> None:
    metrics = Metrics()
    metrics.watch(lambda: Snapshot(0, {}, 0, 0, 0, 0), public=lambda task: task == "a")
    for task in ("a", "secret"):
        metrics.register(task)
        metrics.count(ended(task))
    for request in (ended("junk", status=404), ended("a", "secret"), ended("a", status=500)):
        metrics.count(request)
    refused = {" refused": 1, " failed": 1, "(several) answered": 1}
    seen = stage_tasks(metrics.registry.collect())
    assert seen == {"a answered": 1, "secret answered": 1, **refused}
    assert stage_tasks(metrics.collect()) == {"a answered": 1, "(other) answered": 1, **refused}
    metrics.forget("secret")
    assert stage_tasks(metrics.registry.collect()) == {"a answered": 1, **refused}
    assert stage_tasks(metrics.collect()) == {"a answered": 1, "(other) answered": 1, **refused}
    folded = Metrics(per_task=False)
    folded.register("a")
    folded.count(ended("a"))
    assert stage_tasks(folded.registry.collect()) == {"(all) answered": 1}


def test_failed_versions_are_named_to_those_who_may_know_of_them() -> None:
    metrics = Metrics()
    metrics.watch(lambda: Snapshot(0, {}, 0, 0, 0, 0), public=lambda task: task == "a")
    metrics.versions.failed = lambda: [("a", 3, "torn"), ("secret", 1, "y" * 500)]
    metrics.versions.live = lambda: [("a", 2), ("secret", 1)]
    everything = metrics.exposition().decode()
    cut = "y" * 120
    assert f'versions{{reason="{cut}",task="secret",version="1"}} 1.0' in everything
    assert 'munet_live_version{task="secret",version="1"} 1.0' in everything
    page = metrics.exposition(private=False).decode()
    assert 'munet_failed_versions{reason="torn",task="a",version="3"} 1.0' in page
    assert 'munet_live_version{task="a",version="2"} 2.0' in page and "secret" not in page
    metrics.versions.failed = tuple
    assert "munet_failed_versions{" not in metrics.exposition().decode()


def test_forgetting_a_task_costs_the_same_among_few_and_many() -> None:
    def work(tasks: int) -> int:
        """Steps of the interpreter for 200 of them."""
        metrics = Metrics()
        for task in range(tasks):
            metrics.register(f"t{task}")
            metrics.answered([f"t{task}"], 200, SECONDS)
        steps = 0

        def count(frame: FrameType, event: str, _: object) -> Any:
            nonlocal steps
            frame.f_trace_opcodes = True
            steps += event == "opcode"
            return count

        sys.settrace(count)
        try:
            for task in range(200):
                metrics.forget(f"t{task}")
        finally:
            sys.settrace(None)
        return steps

    assert work(4000) < 2 * work(200)  # else it is about 20


def test_tasks_can_be_folded() -> None:
    metrics = Metrics(per_task=False)
    metrics.register("a")
    metrics.answered(["a"], 200, SECONDS)
    assert tasks_in(metrics) == {"(all)"}


def test_the_process_and_what_it_runs() -> None:
    metrics = Metrics()
    metrics.describe(backend="jax-cpu", device="cpu")
    (found,) = [m for m in metrics.registry.collect() if m.name == "munet_build_info"]
    labels = found.samples[0].labels
    assert labels["version"] == VERSION
    assert (labels["backend"], labels["device"]) == ("jax-cpu", "cpu")
    value = metrics.registry.get_sample_value
    assert (value("process_resident_memory_bytes") or 0) > 1e6
    assert (value("process_cpu_seconds_total") or 0) > 0
    assert (value("process_open_fds") or 0) > 0


def test_every_series_has_a_prefix_and_every_metric_a_help_text() -> None:
    metrics = Metrics()
    metrics.watch(lambda: Snapshot(1, {"ready": 2}, 3, 4, 5, 6))
    text = metrics.exposition().decode()
    assert 'munet_tasks{state="ready"} 2.0' in text
    assert "_created" not in text
    for line in text.splitlines():
        if line.startswith("# HELP"):
            _, _, name, meaning = line.split(" ", 3)
            assert name.startswith(("munet_", "process_"))
            assert len(meaning) > 5
