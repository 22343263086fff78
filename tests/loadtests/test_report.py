"""The numbers of a report, on outcomes written by hand."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from loadtests import report
from loadtests.exposition import parse
from loadtests.report import Outcome, Result, Setup, json_line, render
from loadtests.workload import Load, Popularity

TASKS = tuple(f"task/[{index}]" for index in range(12))


def result(outcomes: list[Outcome], server: report.ServerSide | None = None) -> Result:
    load = Load("http://127.0.0.1:3000", 10, 4, Popularity("zipf", 1.1), deadline_ms=100)
    return report.summarise(Setup(load, TASKS, 3), outcomes, wall_s=5.0, server=server)


def answered(*latencies_ms: float, task: str = TASKS[0]) -> list[Outcome]:
    return [Outcome(task, "200", latency / 1000, lag_s=0.002) for latency in latencies_ms]


def printed(what: Result) -> str:
    file = io.StringIO()
    Console(file=file, width=120).print(render(what))
    return file.getvalue()


def test_percentiles_of_a_known_sample() -> None:
    latencies = np.random.default_rng(0).permutation(np.arange(1.0, 102.0))
    seen = result(answered(*latencies)).latency
    assert seen is not None
    assert (seen.p50_ms, seen.p90_ms, seen.p95_ms, seen.p99_ms, seen.max_ms) == pytest.approx(
        (51, 91, 96, 100, 101)
    )


def test_percentiles_equal_numpys_on_a_skewed_sample() -> None:
    latencies = np.random.default_rng(1).lognormal(3, 1, 777)
    seen = result(answered(*latencies)).latency
    assert seen is not None
    found = [seen.p50_ms, seen.p90_ms, seen.p95_ms, seen.p99_ms, seen.max_ms]
    expected = [*np.quantile(latencies, [0.5, 0.9, 0.95, 0.99]), latencies.max()]
    assert found == pytest.approx(expected)


def test_rates_and_goodput() -> None:
    failed = [Outcome(TASKS[0], "503", 0.001, 0.002)] * 2
    seen = result(answered(20, 99, 100, 101, 900) + failed)
    assert (seen.count, seen.ok, seen.errors) == (7, 5, {"503": 2})
    assert seen.offered_rate == 7 / 4  # per second of the schedule
    assert seen.achieved_rate == 5 / 5  # per second until the last answer
    assert seen.goodput == 3 / 4  # within 100 ms, and failures do not count however fast
    assert seen.client_lag_p99_ms == pytest.approx(2)


def test_failures_are_counted_by_status_and_leave_the_percentiles_alone() -> None:
    failed = [Outcome(TASKS[0], status, 60, 0) for status in ("timeout", "503", "503")]
    seen = result(answered(10, 20) + failed)
    assert list(seen.errors.items()) == [("503", 2), ("timeout", 1)]
    assert seen.latency is not None and seen.latency.max_ms == 20


def test_a_run_without_an_answer_still_has_a_report() -> None:
    seen = result([Outcome(TASKS[0], "connection", 0.001, 0)])
    assert seen.latency is None
    assert "connection: 1" in printed(seen)
    assert json.loads(json_line(seen))["result"]["latency"] is None


def test_the_ten_most_requested_tasks_are_listed() -> None:
    outcomes = [
        one for at, task in enumerate(TASKS) for one in answered(*[at + 1] * (at + 1), task=task)
    ]
    lines = result(outcomes).tasks
    assert [line.task for line in lines] == list(reversed(TASKS))[:10]
    assert (lines[0].count, lines[0].ok) == (12, 12)
    assert lines[0].latency is not None and lines[0].latency.p99_ms == 12


BEFORE = """
munet_stage_duration_seconds_bucket{stage="queue",outcome="answered",le="0.1"} 10
munet_stage_duration_seconds_bucket{stage="queue",outcome="answered",le="+Inf"} 10
munet_stage_duration_seconds_sum{stage="queue",outcome="answered"} 1
munet_batch_tasks_bucket{le="+Inf"} 0
munet_batch_tasks_sum 0
"""
AFTER = """
munet_stage_duration_seconds_bucket{stage="queue",outcome="answered",le="0.1"} 14
munet_stage_duration_seconds_bucket{stage="queue",outcome="answered",le="+Inf"} 14
munet_stage_duration_seconds_sum{stage="queue",outcome="answered"} 1.2
munet_batch_tasks_bucket{le="+Inf"} 0
munet_batch_tasks_sum 0
munet_rows_shared_total 7
"""


def test_the_servers_side_is_the_difference_of_two_pages() -> None:
    seen = report.server_side(parse(BEFORE), parse(AFTER))
    assert list(seen.stages_s) == ["queue"]
    queue = seen.stages_s["queue"]
    assert (queue.count, queue.mean, queue.p50) == (4, pytest.approx(0.05), pytest.approx(0.05))
    assert (seen.rows_shared, seen.padded_rows, seen.batch_rows) == (7, None, None)
    assert seen.batch_tasks == report.Distribution(0, None, None, None)


def test_half_a_row_is_no_median() -> None:
    """Rows are whole; the histogram's buckets begin between them."""
    counts = {"1": 6, "2": 7, "4": 10, "+Inf": 10}
    page = "".join(f'munet_batch_rows_bucket{{le="{le}"}} {n}\n' for le, n in counts.items())
    seen = report.server_side({}, parse(page + "munet_batch_rows_sum 18\n"))
    assert seen.batch_rows == report.Distribution(10, 1.8, 1, 4)
    assert "0.5" not in printed(result(answered(10), seen))


def test_the_table_shows_what_the_json_line_says() -> None:
    seen = result(answered(10, 20, 30), report.server_side(parse(BEFORE), parse(AFTER)))
    text = printed(seen)
    for part in ("zipf:1.1 over 12 tasks", TASKS[0], "20.0", "queue", "50.0", "shared rows"):
        assert part in text
    assert "could not be read" in printed(result(answered(10)))


def test_the_json_line() -> None:
    line = json_line(result(answered(10, 20, 30), report.server_side(parse(BEFORE), parse(AFTER))))
    assert "\n" not in line
    read = json.loads(line)
    assert read.keys() == {"setup", "result"}
    setup = read["setup"]
    assert setup["url"] == "http://127.0.0.1:3000"
    assert (setup["rate"], setup["seconds"], setup["deadline_ms"]) == (10, 4, 100)
    assert (setup["popularity"], setup["seed"]) == ("zipf:1.1", 0)
    assert (setup["images"], setup["image_count"], setup["tasks"]) == ("synthetic", 3, list(TASKS))
    assert setup["host"]["cores"] >= 1
    assert setup["commit"] is None or len(setup["commit"]) == 40
    assert read["result"]["latency"]["p50_ms"] == pytest.approx(20)
    assert read["result"]["server"]["stages_s"]["queue"]["count"] == 4
    assert read["result"]["server"]["batch_tasks"]["mean"] is None
