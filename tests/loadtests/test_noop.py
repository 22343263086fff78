"""The benchmark of the gateway's own cost: its client, its arithmetic, and once all of it."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from loadtests.errors import GatewayError, OptionError
from loadtests.gateways import Server
from loadtests.noop import Report, Setup, json_line, measure, render
from loadtests.noop.client import header, load, milliseconds, post
from loadtests.noop.report import Cost, Outside
from loadtests.noop.variants import BARE, OURS, PEERS_PYTHON, variants
from tests.service.waiting import eventually

HEAD = (
    b"HTTP/1.1 200 OK\r\nServer-Timing: decode;dur=0.5, total;dur=2.25\r\nContent-Length: 4\r\n\r\n"
)
REQUEST = post("/noop", b"image", "image/png")


@pytest.fixture
def answering() -> Iterator[Callable[[Sequence[bytes]], int]]:
    """Starts a server that answers each request on its one connection in these pieces."""
    threads: list[threading.Thread] = []

    def start(pieces: Sequence[bytes]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            with listener, listener.accept()[0] as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while connection.recv(65_536):
                    for piece in pieces:
                        connection.sendall(piece)
                    if not pieces:
                        return

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return listener.getsockname()[1]

    yield start
    for thread in threads:
        thread.join(10)


def test_the_client_counts_whole_answers_however_they_arrive(
    answering: Callable[[Sequence[bytes]], int],
) -> None:
    port = answering([HEAD[:20], HEAD[20:] + b"an", b"sw"])
    answers = load(port, REQUEST, connections=1, seconds=0.1)
    assert len(answers.latencies_s) == len(answers.heads) > 1
    assert answers.rate == pytest.approx(len(answers.heads) / answers.wall_s)
    timing = {milliseconds(header(head, "server-timing"))["total"] for head in answers.heads}
    assert timing == {2.25}
    assert milliseconds(header(answers.heads[0], "none")) == {}


@pytest.mark.parametrize(
    "pieces", [[], [b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"], [b"HTTP/1.1 200 OK\r\n\r\n"]]
)
def test_the_client_accepts_nothing_but_answers(
    answering: Callable[[Sequence[bytes]], int], pieces: Sequence[bytes]
) -> None:
    with pytest.raises(GatewayError, match="found"):
        load(answering(pieces), REQUEST, connections=1, seconds=0.1)


def test_a_request_is_whole() -> None:
    head, _, body = REQUEST.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /noop HTTP/1.1\r\n")
    assert b"content-length: 5" in head
    assert body == b"image"


def test_bare_starlette_can_be_loaded_and_its_processor_time_is_seen(tmp_path: Path) -> None:
    bare = variants(b"image")[0]
    with Server(bare.command, tmp_path, bare.ready) as server:
        before_s = server.cpu_s()
        answers = load(server.port, bare.request, connections=16, seconds=1.0)
        assert answers.heads
        assert server.cpu_s() > before_s > 0


def test_a_server_leaves_no_process_behind(tmp_path: Path) -> None:
    code = (
        "import http.server, subprocess, sys, signal;"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit());"
        "subprocess.Popen(['sleep', '600']);"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])),"
        " http.server.SimpleHTTPRequestHandler).serve_forever()"
    )
    with Server((sys.executable, "-c", code, "PORT"), tmp_path, "/") as server:
        _, child = server.pids()
    stat = Path(f"/proc/{child}/stat")
    eventually(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_every_image_is_sent_as_its_server_takes_it() -> None:
    by_name = {one.name: one.request.partition(b"\r\n\r\n")[2] for one in variants(b"image")}
    assert by_name[BARE] == by_name[OURS] == by_name["BentoML"] == b"image"
    assert json.loads(by_name["LitServe"]) == {"image": "aW1hZ2U="}
    assert json.loads(by_name["MLServer"])["inputs"][0]["data"] == ["aW1hZ2U="]


def cost(name: str, rate: float, connections: int = 1) -> Cost:
    return Cost(name, connections, rate, 1.0, 2.0, 100.0)


OUTSIDE = Outside(10, 8.0, 1.0, 5.0, 1.5, 1.2)
REPORT = Report(
    rounds=3,
    seconds=1.0,
    image_bytes=5000,
    costs=[
        *(cost(BARE, 1000), cost(OURS, 800)),
        *(cost(BARE, 100), cost(OURS, 60)),
        *(cost(BARE, 1000), cost(OURS, 500)),
    ],
    missing=["LitServe"],
    outside=OUTSIDE,
)


def test_ratios_are_of_the_same_round() -> None:
    assert REPORT.ratio(OURS, 1) == pytest.approx(0.6)
    assert REPORT.ratio(BARE, 1) == 1.0
    assert REPORT.median(OURS, 1) == cost(OURS, 500)


def test_the_report_names_what_did_not_run_and_what_is_not_met() -> None:
    console = Console(width=120, record=True, file=sys.stderr)
    console.print(render(REPORT))
    text = console.export_text()
    assert "LitServe did not run: it is not installed (make peers)" in text
    met = [
        line.split()[-2] for line in text.splitlines() if "at most" in line or "at least" in line
    ]
    assert met == ["no", "no"]
    line = json.loads(json_line(REPORT))
    assert line["noop"]["costs"][1]["rate"] == 800
    assert line["noop"]["outside"]["client_ms"] == 1.5
    assert line["about"]["host"]["cores"] > 0


@pytest.mark.parametrize("options", [{"rounds": 0}, {"seconds": 0.0}, {"seconds": 61.0}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="rounds above 0"):
        Setup(**options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_all_servers_are_measured() -> None:
    report = measure(Setup(rounds=1, seconds=0.2))
    peers = set() if PEERS_PYTHON.exists() else {"LitServe", "MLServer"}
    assert set(report.missing) == peers
    assert {*report.names, *peers} == {BARE, OURS, "BentoML", "LitServe", "MLServer"}
    assert all(cost.rate > 0 and cost.cpu_us > 0 for cost in report.costs)
    outside = report.outside
    assert 0 < outside.server_ms < outside.client_ms < outside.latency_ms
