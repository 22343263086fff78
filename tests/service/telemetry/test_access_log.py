"""A line for each request: what it says, what it costs when nobody reads, what nobody can forge."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store import ModelStore
from service.metrics.instruments import Metrics
from service.request import STAGES, Exchange, Request, Watch, exchanged
from service.telemetry.access_log import LONGEST_LINE, AccessLog, line
from tests.service.in_process import Gateway
from tests.service.systems import png, publish
from tests.service.waiting import eventually


class Lines:
    """Takes the place of standard output."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, data: bytes) -> None:
        self.lines += [json.loads(one) for one in data.splitlines()]


@pytest.fixture
def told(
    tmp_path: Path, compilations: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Gateway, Lines]]:
    """A gateway with an access log, and what it says there."""
    lines = Lines()
    monkeypatch.setattr("service.telemetry.reporting.os.write", lambda _, data: lines.write(data))
    store = ModelStore(tmp_path, create=True)
    publish(store, "a")
    publish(store, "b")
    made = Gateway(store, compilations, access_log=True)
    yield made, lines
    made.close()


def line_of(lines: Lines, response: httpx.Response) -> dict[str, Any]:
    name = response.headers["x-request-id"]
    return eventually(lambda: [one for one in lines.lines if one["request_id"] == name])[0]


def test_a_classified_request(told: tuple[Gateway, Lines]) -> None:
    gateway, lines = told
    response = gateway.classify("a", png(1), "?top_k=2")
    said = line_of(lines, response)
    assert said["method"] == "POST"
    assert said["route"] == "/classify/{task:path}"
    assert said["path"] == "/classify/a"
    assert (said["protocol"], said["tasks"], said["versions"]) == ("http", ["a"], [1])
    assert (said["status"], said["refusal"]) == (200, None)
    assert (said["rows"], said["batch_rows"], said["batch_tasks"]) == (1, 1, 1)
    assert said["bytes_in"] == len(png(1))
    assert said["bytes_out"] == len(response.content)
    assert set(said["stages_ms"]) == {*STAGES, "total"}
    assert said["ms"] == said["stages_ms"]["total"]
    assert said["time"].endswith("+00:00")
    several = gateway.request("POST", "/classify?task=a&task=b", content=png(1))
    assert line_of(lines, several)["tasks"] == ["a", "b"]


def test_refusals_and_what_is_no_route(told: tuple[Gateway, Lines]) -> None:
    gateway, lines = told
    refused = line_of(lines, gateway.classify("nobody", png(1)))
    assert (refused["status"], refused["refusal"]) == (404, "unknown-task")
    assert (refused["versions"], refused["stages_ms"]["total"]) == (None, refused["ms"])
    junk = line_of(lines, gateway.request("GET", "/junk" * 1000))
    assert (junk["status"], junk["route"]) == (404, None)
    assert len(junk["path"]) == 200
    assert "tasks" not in junk
    assert line_of(lines, gateway.request("GET", "/tasks"))["status"] == 200


def test_probes_and_scrapes_are_not_noted(told: tuple[Gateway, Lines]) -> None:
    gateway, lines = told
    for path in ("/livez", "/healthz", "/readyz", "/metrics"):
        assert "x-request-id" not in gateway.request("GET", path).headers
    line_of(lines, gateway.request("GET", "/tasks"))
    assert {one["path"] for one in lines.lines} == {"/tasks"}


@pytest.mark.parametrize(
    ("given", "kept"),
    [("order-17.a:b/c", True), ("a b", False), ('x","status":200', False), ("a" * 129, False)],
)
def test_a_plain_request_id_is_kept(told: tuple[Gateway, Lines], given: str, kept: bool) -> None:
    gateway, _ = told
    answer = gateway.request("GET", "/tasks", headers={"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) == kept
    assert answer.headers["x-request-id"]


def test_whose_token_it_was(
    tmp_path: Path, compilations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = Lines()
    monkeypatch.setattr("service.telemetry.reporting.os.write", lambda _, data: lines.write(data))
    tokens = tmp_path / "tokens.toml"
    digest = hashlib.sha256(b"secret").hexdigest()
    tokens.write_text(f'[[token]]\nname = "shop"\nsha256 = "{digest}"\nread = true\n')
    store = ModelStore(tmp_path / "store", create=True)
    gateway = Gateway(store, compilations, access_log=True, tokens=str(tokens))
    try:
        bearer = {"authorization": "Bearer secret"}
        said = line_of(lines, gateway.request("GET", "/tasks", headers=bearer))
        assert (said["status"], said["token"]) == (200, "shop")
        assert "secret" not in str(lines.lines)
        assert line_of(lines, gateway.request("GET", "/tasks"))["token"] == "anonymous"
    finally:
        gateway.close()


def exchange(**fields: Any) -> Exchange:
    made = {"method": "GET", "path": "/", "client": "::1", "request_id": "r", "trace": {}}
    return Exchange(**{**made, **fields})


def test_no_name_or_path_makes_a_line_two_or_longer_than_a_pipe_takes_at_once() -> None:
    evil = exchange(path="/\n\u2028\x1b[31m" + "\U0001f600" * 500, method="X" * 5000)
    evil.request = Request("http", ["\U0001f600\n" * 300] * 32)
    text = line(evil)
    assert len(text) <= LONGEST_LINE
    assert text.isascii()
    assert text.count(b"\n") == 1
    assert "\x1b" not in text.decode()
    assert json.loads(text)["status"] == 500


def test_a_reader_that_stops_reading_costs_lines_and_holds_nobody_up() -> None:
    reading, writing = os.pipe()
    dropped: list[None] = []
    log = AccessLog(lambda data: os.write(writing, data), lambda: dropped.append(None))
    log.start()
    done = threading.Event()

    def many() -> None:
        for _ in range(15_000):  # more than the pipe and the queue hold
            log.note(exchange())
        done.set()

    threading.Thread(target=many, daemon=True).start()
    assert done.wait(60)
    assert dropped
    log.stop()  # comes back although its thread is held up
    os.close(reading)
    eventually(lambda: not log._thread.is_alive())
    os.close(writing)


def test_lines_that_wait_are_written_at_the_end() -> None:
    lines = Lines()
    log = AccessLog(lines.write, lambda: None)
    log.start()
    with exchanged([log.note], exchange(path="/last")):
        pass
    log.stop()
    assert [one["path"] for one in lines.lines] == ["/last"]


def test_a_line_that_comes_just_before_the_end_is_written() -> None:
    """The thread has looked for the last time, and finds that it should end."""
    lines = Lines()
    log = AccessLog(lines.write, lambda: None)
    with exchanged([log.note], exchange(path="/last")):
        pass
    log._closing.set()
    log._run()
    assert [one["path"] for one in lines.lines] == ["/last"]


def test_without_reports_nothing_is_noted(gateway: Gateway) -> None:
    assert "x-request-id" not in gateway.classify("plain", png(1)).headers


def test_what_is_seen_belongs_to_the_request_around_it() -> None:
    found: list[Exchange] = []
    outer = exchange()

    def broken(_: Exchange) -> None:
        raise ValueError("a report that fails harms nobody")

    request = Request("v2-grpc", ["a"])
    with exchanged([broken, found.append], outer), Watch(request, Metrics().count):
        pass
    with Watch(Request("http", ["b"]), Metrics().count):  # outside of any
        pass
    assert found == [outer]
    assert outer.request is request
    assert outer.ended >= outer.started
