"""Several workers show one page of metrics, also when some of them die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.exposition import Series, parse
from service.metrics.instruments import Metrics
from service.telemetry.workers import Worker, Workers, joined
from tests.service.servers import ROOT
from tests.service.waiting import eventually


def series(name: str, **labels: str) -> Series:
    return Series(name, frozenset(labels.items()))


def counting(folder: Path, index: int, task: str, requests: int) -> tuple[Workers, Metrics]:
    metrics = Metrics()
    metrics.register(task)
    for _ in range(requests):
        metrics.answered([task], 200, 0.5)
    return Workers(Worker(folder, index), metrics.exposition), metrics


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: the name of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def test_any_worker_shows_all_of_them(folder: Path) -> None:
    workers = [counting(folder, index, "a", requests=index)[0] for index in (1, 2, 3)]
    for worker in workers:
        worker.start()
    pages = [parse(worker.exposition().decode()) for worker in workers]
    for worker in workers:
        worker.stop()
    for page in pages:
        for index in (1, 2, 3):
            labels = {"worker": str(index), "task": "a"}
            assert page[series("munet_requests_total", status="200", **labels)] == index
            seconds = "munet_request_duration_seconds"
            assert page[series(f"{seconds}_sum", **labels)] == index * 0.5
            assert page[series(f"{seconds}_bucket", le="+Inf", **labels)] == index


def test_families_stay_together_with_one_header() -> None:
    one = '# HELP a_total A.\n# TYPE a_total counter\na_total{x="{"} 1.0\n'
    two = "# HELP b B {.\n# TYPE b gauge\nb 2.0\n"
    assert joined({2: one, 1: one + two}) == (
        "# HELP a_total A.\n# TYPE a_total counter\n"
        'a_total{worker="1",x="{"} 1.0\na_total{worker="2",x="{"} 1.0\n'
        '# HELP b B {.\n# TYPE b gauge\nb{worker="1"} 2.0\n'
    )


def test_a_removed_task_leaves_the_joint_page(folder: Path) -> None:
    one, _ = counting(folder, 1, "a", 1)
    two, metrics = counting(folder, 2, "b", 1)
    two.start()
    assert 'task="b"' in one.exposition().decode()
    metrics.forget("b")
    assert 'task="b"' not in one.exposition().decode()
    two.stop()


def test_a_stopped_worker_leaves_and_its_successor_joins(folder: Path) -> None:
    one, _ = counting(folder, 1, "a", 1)
    two, _ = counting(folder, 2, "a", 5)
    two.start()
    two.stop()
    assert 'worker="2"' not in one.exposition().decode()
    two, _ = counting(folder, 2, "a", 3)
    two.start()
    page = parse(one.exposition().decode())
    assert page[series("munet_requests_total", worker="2", task="a", status="200")] == 3
    two.stop()


KILLED = """
import sys
from pathlib import Path
from service.telemetry.workers import Worker, Workers
Workers(Worker(Path(sys.argv[1]), 2), lambda: b"# HELP a A.\\n# TYPE a gauge\\na 1.0\\n").start()
print(flush=True)
sys.stdin.read()  # which nobody closes
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_killed_or_hangs_is_left_out(folder: Path, end: signal.Signals) -> None:
    one, _ = counting(folder, 1, "a", 1)
    command = [sys.executable, "-c", KILLED, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as other:
        try:
            assert other.stdout is not None and other.stdout.readline()
            assert 'a{worker="2"} 1.0' in one.exposition().decode()
            os.kill(other.pid, end)
            eventually(lambda: 'worker="2"' not in one.exposition().decode())
            assert 'worker="1"' in one.exposition().decode()
        finally:
            other.kill()
    successor, _ = counting(folder, 2, "a", 1)
    successor.start()  # the socket of the killed one is in the way
    assert 'worker="2"' in one.exposition().decode()
    successor.stop()


def test_half_a_page_is_none(folder: Path) -> None:
    one, _ = counting(folder, 1, "a", 1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "2"))
        listener.listen()

        def dies_while_it_speaks() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"# HELP a A.\n# TYPE a gauge\na{x=")
            connection.close()

        dying = threading.Thread(target=dies_while_it_speaks)
        dying.start()
        page = one.exposition().decode()
        dying.join()
    assert 'worker="2"' not in page
    assert parse(page)
