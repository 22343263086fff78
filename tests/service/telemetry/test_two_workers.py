"""`MUNET_WORKERS=2`: every change reaches both, one page of metrics, one log, one drain."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests.exposition import Series, parse
from model_store import ModelStore
from tests.service.collectors import Collector
from tests.service.conftest import Served
from tests.service.servers import Load, Reply, Server
from tests.service.systems import png, publish
from tests.service.turns import Turns
from tests.service.waiting import PATIENCE_S, eventually

WORKERS = {"1", "2"}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def start(folder: Path, compilations: str, **variables: str) -> Served:
    store = ModelStore(folder / "store", create=True)
    publish(store, "steady")
    publish(store, "changing")
    settings = {
        "MUNET_STORE": store.url,
        "MUNET_COMPILATION_CACHE": compilations,
        "MUNET_MAX_BATCH_ROWS": "4",
        "MUNET_WORKERS": "2",
        "MUNET_DRAIN_S": "0.1",
        "TMPDIR": str(folder),
    }
    server = Server(".", folder / "home", **{**settings, **variables})
    return Served(server, store, Turns(folder))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, compilations: str, collector: Collector
) -> Iterator[Served]:
    """Two workers that log and trace."""
    folder = tmp_path_factory.mktemp("pair")
    made = start(folder, compilations, MUNET_ACCESS_LOG="1", MUNET_TRACING=collector.url)
    with made.server:
        eventually(lambda: workers(made.server) == WORKERS)
        yield made


def workers(server: Server) -> set[str]:
    """Those that are on the page of metrics."""
    return {dict(series.labels)["worker"] for series in parse(server.metrics())}


def answered(server: Server, task: str, status: int) -> dict[str, float]:
    """Requests by worker."""
    found = parse(server.metrics())
    labels = {"task": task, "status": str(status)}
    return {
        worker: found.get(
            Series("munet_requests_total", frozenset({**labels, "worker": worker}.items())), 0.0
        )
        for worker in WORKERS
    }


def from_both(server: Server, task: str, label: str, status: int) -> list[Reply]:
    """Replies to requests on new connections until each worker has given one with this status."""
    before = answered(server, label, status)
    replies: list[Reply] = []

    def both() -> bool:
        replies.extend(server.classify(task, png(1)) for _ in range(10))
        now = answered(server, label, status)
        return all(now[worker] > before[worker] for worker in WORKERS)

    eventually(both)
    return replies


def test_publish_roll_back_and_remove_reach_both(pair: Served) -> None:
    server, store = pair.server, pair.store
    assert {r.json["version"] for r in from_both(server, "changing", "changing", 200)} == {1}
    publish(store, "changing", own={"head": 5})
    eventually(lambda: _all(server, "changing", 2))
    assert {r.json["version"] for r in from_both(server, "changing", "changing", 200)} == {2}
    store.rollback("changing", 1)
    eventually(lambda: _all(server, "changing", 1))
    assert {r.json["version"] for r in from_both(server, "changing", "changing", 200)} == {1}
    store.rm("changing")
    eventually(lambda: 'task="changing"' not in server.metrics())  # on either
    assert {r.status for r in from_both(server, "changing", "(other)", 404)} == {404}


def _all(server: Server, task: str, version: int) -> bool:
    return {server.classify(task, png(1)).json["version"] for _ in range(20)} == {version}


def test_both_write_whole_lines_with_ids_and_traces(pair: Served, collector: Collector) -> None:
    server = pair.server
    mark = server.log.stat().st_size
    headers = {
        "content-type": "image/png",
        "x-request-id": "order-17",
        "traceparent": f"00-{TRACE}-{PARENT}-01",
    }
    reply = server.ask("POST", "/classify/steady", png(1), headers)
    assert (reply.status, reply.headers["x-request-id"]) == (200, "order-17")
    from_both(server, "steady", "steady", 200)

    def lines() -> list[dict[str, Any]]:
        new = server.log.read_bytes()[mark:].decode().splitlines()
        return [json.loads(one) for one in new if one.startswith("{")]

    (said,) = eventually(lambda: [one for one in lines() if one.get("request_id") == "order-17"])
    assert (said["status"], said["tasks"], said["versions"]) == (200, ["steady"], [1])
    assert said["trace_id"] == TRACE
    # The request's own span ends, and is sent, after all of its stages'.
    eventually(lambda: any(span.parent == PARENT for span in collector.trace(TRACE)))
    request, *stages = collector.trace(TRACE)
    assert (request.name, request.parent) == ("POST /classify/{task:path}", PARENT)
    named = [stage.name for stage in stages]
    assert named == ["receive", "load", "receive", "decode", "queue", "execute", "answer"]
    assert request.resource["service.name"] == "munet-gateway"
    eventually(lambda: {span.resource["service.instance.id"] for span in collector.spans} == {1, 2})


@pytest.mark.slow
def test_killed_workers_are_replaced_and_leave_the_page(tmp_path: Path, compilations: str) -> None:
    """And at the end both drain: unready first, no request lost until the listener closes."""
    made = start(tmp_path, compilations, MUNET_DRAIN_S="3")
    with made.server as server:
        eventually(lambda: workers(server) == WORKERS)
        from_both(server, "steady", "steady", 200)
        killed = max(_pids(server))
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: len(workers(server)) == 1)
        assert all(server.classify("steady", png(1)).status == 200 for _ in range(10))
        eventually(lambda: workers(server) == WORKERS)
        assert killed not in _pids(server)
        from_both(server, "steady", "steady", 200)
        with Load(server, ["steady"], png(1)) as load:
            eventually(lambda: len(load.replies) > 10)
            server.process.terminate()
            eventually(lambda: server.ask("GET", "/readyz").status == 503)
            seen = len(load.replies)
            eventually(lambda: len(load.replies) > seen + 5)
            assert server.process.wait(PATIENCE_S) == 0
        assert {reply.status for _, reply in load.replies} == {200}
        assert not list(tmp_path.glob("munet-*"))  # where they told each other their metrics


@pytest.mark.slow
def test_a_worker_that_is_ended_alone_leaves_the_port_to_the_other(
    tmp_path: Path, compilations: str
) -> None:
    with start(tmp_path, compilations).server as server:
        eventually(lambda: workers(server) == WORKERS)
        from_both(server, "steady", "steady", 200)
        ended = max(_pids(server))
        with Load(server, ["steady"], png(1)) as load:
            eventually(lambda: len(load.replies) > 10)
            os.kill(ended, signal.SIGTERM)
            eventually(lambda: ended not in _pids(server))
            seen = len(load.replies)
            eventually(lambda: len(load.replies) > seen + 20)
        assert not load.broken
        assert {reply.status for _, reply in load.replies} == {200}


def _pids(server: Server) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{server.process.pid}/task").glob("*/children"):
        found += [
            int(pid)
            for pid in children.read_text().split()
            if b"_bentoml_impl.worker.service" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
    return found
