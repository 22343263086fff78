"""Whole runs against a real server: what is sent when, and how each fate is counted."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from loadtests.errors import GatewayError, OptionError
from loadtests.report import Result
from loadtests.run import measure
from loadtests.workload import Load, Popularity
from tests.loadtests.fake_gateway import FakeGateway, fake_gateway

UNIFORM = Popularity("uniform")


def run(gateway: FakeGateway, **options: Any) -> Result:
    """Half a second of 60 requests per second, but for what `options` change."""
    values: dict[str, Any] = {"rate": 60, "seconds": 0.5, "popularity": UNIFORM}
    return asyncio.run(measure(Load(url=gateway.url, **(values | options))))


def test_every_request_of_the_schedule_reaches_the_server() -> None:
    with fake_gateway("cmaterdb/bangla", "odd name/ü") as gateway:
        result = run(gateway)
    assert result.count == result.ok == len(gateway.posts) > 10
    assert result.errors == {}
    assert {task for task, _, _ in gateway.posts} == {"cmaterdb/bangla", "odd name/ü"}
    assert all(body.startswith(b"\x89PNG") for _, _, body in gateway.posts)
    assert result.setup.tasks == ("cmaterdb/bangla", "odd name/ü")


def test_latency_counts_the_wait_for_a_slow_server() -> None:
    # 40 requests per second meet a server that does 20: the last ones wait for about as long as the
    # sending lasted. A client that waited for its answers would see 50 ms for every one.
    with fake_gateway("slow/task", stage_s=0.05) as gateway:
        result = run(gateway, rate=40, seconds=1, deadline_ms=300)
    assert result.ok == result.count > 25
    assert result.latency is not None
    assert result.latency.max_ms > 10 * 50
    assert result.latency.p50_ms > 4 * 50
    assert gateway.most_in_flight > 10
    assert result.goodput < result.achieved_rate <= 20
    assert result.server is not None
    execute = result.server.stages_s["execute"]
    assert execute.count == result.ok
    assert execute.mean == pytest.approx(0.05)


def test_latency_counts_the_lateness_of_the_client_itself() -> None:
    async def measured_beside_a_stall(load: Load) -> Result:
        async def stall() -> None:
            while not gateway.posts:
                await asyncio.sleep(0.01)
            time.sleep(0.6)  # not asyncio's: the client's own loop is what must stand still

        result, _ = await asyncio.gather(measure(load), stall())
        return result

    with fake_gateway("a") as gateway:
        load = Load(url=gateway.url, rate=100, seconds=1, popularity=UNIFORM)
        result = asyncio.run(measured_beside_a_stall(load))
    assert result.errors == {}
    assert result.latency is not None and result.latency.max_ms > 400
    assert result.client_lag_p99_ms > 400


def test_the_fates_of_requests_are_told_apart() -> None:
    tasks = ("busy", "confused", "cut", "fine", "moved")
    with fake_gateway(*tasks) as gateway:
        result = run(gateway, popularity=Popularity("distinct"), rate=100)
    sent = {line.task: line.count for line in result.tasks}
    assert result.ok == sent["fine"]
    assert result.errors["503"] == sent["busy"]
    assert result.errors["invalid_answer"] == sent["confused"]
    assert result.errors["connection"] == sent["cut"]
    assert result.errors["307"] == sent["moved"]  # not followed: it leads off this machine
    assert result.ok + sum(result.errors.values()) == result.count


def test_a_server_that_does_not_answer_cannot_hold_the_run() -> None:
    with fake_gateway("hanging", stage_s=60) as gateway:
        result = run(gateway, rate=30, timeout_s=0.5)
    assert result.errors == {"timeout": result.count}  # it has not waited for the server's 60 s


def test_requests_in_flight_are_bounded_and_the_rest_counted() -> None:
    with fake_gateway("hanging", stage_s=1) as gateway:
        result = run(gateway, rate=200, max_in_flight=5)
    assert gateway.most_in_flight == 5
    assert result.ok == len(gateway.posts)
    assert result.errors == {"not_sent": result.count - result.ok}


def test_a_server_that_dies_during_the_run_is_still_reported() -> None:
    results: list[Result] = []
    with fake_gateway("a") as gateway:
        client = threading.Thread(target=lambda: results.append(run(gateway, seconds=3)))
        client.start()
        while len(gateway.posts) < 10 and client.is_alive():
            time.sleep(0.01)
    client.join(timeout=60)
    (result,) = results
    assert result.ok > 0 and result.errors["connection"] > 0
    assert result.server is None


def test_tasks_can_be_chosen_and_ranked() -> None:
    with fake_gateway("a", "b", "c") as gateway:
        result = run(gateway, tasks=("c", "a"), popularity=Popularity("identical"))
        assert {task for task, _, _ in gateway.posts} == {"c"}
        assert result.setup.tasks == ("c", "a")
        with pytest.raises(OptionError, match=r"found d; it has: a, b, c"):
            run(gateway, tasks=("a", "d"))


def test_files_are_sent_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"not even a JPEG")
    with fake_gateway("a") as gateway:
        result = run(gateway, images=tmp_path)
    assert {post[1:] for post in gateway.posts} == {("image/jpeg", b"not even a JPEG")}
    assert result.setup.image_count == 1


def test_the_same_seed_sends_the_same_requests() -> None:
    sent = []
    for _ in range(2):
        with fake_gateway("a", "b", "c") as gateway:
            run(gateway, seed=5, rate=40)
        sent.append(sorted(gateway.posts))
    assert sent[0] == sent[1]


def test_metrics_are_those_of_the_run_alone() -> None:
    with fake_gateway("a") as gateway:
        first, second = run(gateway), run(gateway, seed=1)
    for result in (first, second):
        assert result.server is not None and result.server.batch_rows is not None
        assert result.server.batch_rows.count == result.server.padded_rows == result.ok
        assert result.server.batch_rows.mean == 3
        assert result.server.rows_shared is None


def test_a_server_without_metrics_is_still_measured() -> None:
    with fake_gateway("a") as gateway:
        gateway.offers_metrics = False
        result = run(gateway)
    assert result.ok == result.count and result.server is None


def test_counters_that_start_again_are_not_compared() -> None:
    with fake_gateway("restarting") as gateway:
        for _ in range(50):
            gateway.rows.observe(1)
        result = run(gateway)
    assert result.ok == result.count and result.server is None


def test_no_gateway_no_tasks_and_nothing_to_send_are_errors() -> None:
    with fake_gateway() as gateway, pytest.raises(OptionError, match="serves none"):
        run(gateway)
    with pytest.raises(GatewayError, match="start the gateway first"):
        run(gateway)
    with fake_gateway("a") as gateway, pytest.raises(OptionError, match="raise the rate"):
        run(gateway, rate=1e-6)
