"""Series exist for registered tasks only."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from service import VERSION
from service.metrics.gauges import Snapshot
from service.metrics.instruments import Metrics

SECONDS = 0.007


def tasks_in(metrics: Metrics) -> set[str]:
    return {
        sample.labels["task"]
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if "task" in sample.labels
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
    assert tasks_in(metrics) == {"other"}
    labels = {"task": "other", "status": "404"}
    assert metrics.registry.get_sample_value("munet_requests_total", labels) == 1000


def test_a_forgotten_task_takes_its_series_with_it() -> None:
    metrics = Metrics()
    for task in ("a", "b"):
        metrics.register(task)
        for status in (200, 429, 503):
            metrics.answered([task], status, SECONDS)
    metrics.forget("a")
    assert tasks_in(metrics) == {"b"}
    metrics.answered(["a"], 200, SECONDS)  # a request that was still running
    assert tasks_in(metrics) == {"b", "other"}


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
    assert tasks_in(metrics) == {"all"}


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
