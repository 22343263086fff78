"""A gateway whose event loop is late knows it, counts it, and refuses what it cannot do in time."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http import loop_delay
from service.http.loop_delay import ARRIVED, LATE_S, LOOP, STANDING_S, TICK_S, LoopDelay, Standing
from tests.service.conftest import Served
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.servers import Reply, Server, ask
from tests.service.systems import png
from tests.service.waiting import eventually

STALL_S = 1.0


def worker(server: Server) -> int:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    (found,) = [
        int(pid)
        for pid in children.read_text().split()
        if b"bentoml" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return found


@contextmanager
def stalled(server: Server) -> Iterator[None]:
    """The whole process stands still for a while, as one that gets no processor does."""
    pid = worker(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
        time.sleep(STALL_S)
    finally:
        os.kill(pid, signal.SIGCONT)


def asked_while_stalled(server: Server, **headers: str) -> Reply:
    """A request that is sent while nobody reads it, over a connection that is there before."""
    connection, replies = server.connect(), list[Reply]()
    octets = {"content-type": "image/png"}
    assert ask(connection, "POST", "/classify/plain", png(1), octets).status == 200

    def run() -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        replies.append(ask(connection, "POST", "/classify/plain", png(1), {**octets, **named}))

    thread = threading.Thread(target=run)
    with stalled(server):
        thread.start()
    thread.join()
    connection.close()
    return replies[0]


def waited(server: Server) -> float:
    found = re.search(r"^munet_arrival_delay_seconds_sum (\S+)$", server.metrics(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_time_counts_from_when_the_bytes_came(served: Served) -> None:
    before = waited(served.server)

    def answered() -> Reply | None:
        reply = asked_while_stalled(served.server)
        return reply if reply.status == 200 else None

    reply = eventually(answered)  # a machine that is busy for a second is overloaded
    assert reply is not None
    assert reply.json["timing_ms"]["receive"] > 0.9e3 * STALL_S
    assert waited(served.server) - before > 0.9 * STALL_S
    page = served.server.metrics()
    late = re.search(r'^munet_loop_delay_seconds_bucket\{le="0.5"} (\S+)$', page, re.MULTILINE)
    every = re.search(r"^munet_loop_delay_seconds_count (\S+)$", page, re.MULTILINE)
    assert late is not None and every is not None
    assert float(every[1]) > float(late[1])


def test_a_deadline_that_passed_before_the_request_was_read_is_kept(served: Served) -> None:
    reply = asked_while_stalled(served.server, munet_deadline_ms="300")
    assert reply.status == 503
    assert reply.headers["retry-after"]
    assert "waited" in reply.json["detail"]


class Connection:
    """Says how long data has been there, and counts how often it is asked."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.asked = seconds, 0

    def get_extra_info(self, name: str) -> Any:
        assert name == "socket"
        return self

    def getsockopt(self, *_: int) -> bytes:
        self.asked += 1
        return bytes(52) + struct.pack("I", round(self.seconds * 1e3))


def test_the_kernel_is_asked_only_while_the_loop_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(loop_delay.time, "monotonic", lambda: now)
    loop, connection, told = LoopDelay(), Connection(0.7), list[float]()
    loop.read = told.append
    assert loop.arrival(connection, first=False) == now  # nothing is measured yet
    loop.note(now)
    for now in (100.0, 100.03, 100.06):
        assert loop.arrival(connection, first=False) == now
    assert (connection.asked, told) == (0, [])
    now = 101.0  # the tick is overdue
    assert loop.arrival(connection, first=False) == pytest.approx(100.3)
    loop.note(now)
    now = 101.01  # it was late
    assert loop.arrival(connection, first=False) == pytest.approx(100.31)
    assert told == [0.7, 0.7]
    loop.note(now + TICK_S)
    assert loop.arrival(connection, first=False) == now
    assert connection.asked == 2


def test_a_new_connection_has_waited_though_the_loop_is_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was accepted late: then more comes than the loop can do, if that lasts."""
    now = 100.0
    monkeypatch.setattr(loop_delay.time, "monotonic", lambda: now)
    loop = LoopDelay()
    loop.note(now)
    for now in (100.0, 100.5, 101.0):
        loop.note(now)
        loop.note(now)  # in time
        assert not loop.overloaded(now)
        assert loop.arrival(Connection(1.5), first=True) == pytest.approx(now - 1.5)
        assert loop.arrival(Connection(1.5), first=False) == now
    now = 101.01
    loop.arrival(Connection(1.5), first=True)
    assert loop.overloaded(now)
    loop.arrival(Connection(LATE_S / 2), first=True)
    assert loop.overloaded(now)  # one that came in time does not end it
    now = 102.02
    assert not loop.overloaded(now)


def test_what_says_nothing_of_its_arrival_came_now() -> None:
    one, other = socket.socketpair()  # no TCP
    with one, other:
        assert loop_delay._waited(one) == 0.0
    assert loop_delay._waited(None) == 0.0


@given(st.lists(st.tuples(st.booleans(), st.floats(0.001, 0.7)), max_size=60))
def test_a_queue_stands_once_all_was_late_for_a_second_until_none_was(
    turns: list[tuple[bool, float]],
) -> None:
    """A burst, or a pause of the machine, is late once and then in time again."""
    standing, now, seen, stands = Standing(), 0.0, list[tuple[float, bool]](), False
    for late, after in turns:
        now += after
        stands = stands and any(one for at, one in seen if now < at + STANDING_S)
        assert standing.lasts(now) == stands
        standing.note(now, 2 * LATE_S if late else LATE_S / 2)
        seen.append((now, late))
        last = max((at for at, one in seen if not one), default=-1.0)
        always = [at for at, one in seen if at > last]
        stands = stands or bool(always and now - always[0] > STANDING_S)
        assert standing.lasts(now) == stands


def test_a_loop_that_has_ended_is_not_behind() -> None:
    loop = LoopDelay()

    async def late() -> bool:
        loop.watch(asyncio.get_running_loop())
        now = time.monotonic()
        loop.note(now + 1.0)
        loop.note(now + 3.0)
        return loop.overloaded(now + 3.1)

    assert asyncio.run(late())
    assert (loop.seconds(1e9), loop.overloaded(1e9)) == (0.0, False)


class Late:
    """Requests that came a while ago to a gateway whose loop is late."""

    def __init__(self, gateway: Gateway, came_s: float) -> None:
        self.gateway, self.came_s = gateway, came_s

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        came = {ARRIVED: time.monotonic() - self.came_s}
        await self.gateway.app({**scope, **came}, receive, send)

    def post(self, path: str, **headers: str) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                return await client.post(path, content=png(1), headers={**OCTETS, **named})

        return self.gateway.runner.run(run())

    def get(self, path: str) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                return await client.get(path)

        return self.gateway.runner.run(run())


COMPUTES = (
    *("/classify/plain", "/classify?task=plain", "/embed/plain", "/embed?task=plain"),
    "/v2/models/plain/infer",
)


@pytest.mark.parametrize("path", COMPUTES)
def test_an_overloaded_loop_refuses_before_anything_is_done(
    gateway: Gateway, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):  # of the first one nothing is known
        gateway.classify("plain", png(1))
    offered = 'munet_offered_work_seconds_total{resource="engine"}'
    unavailable = 'munet_rejected_total{reason="unavailable"}'
    before, refusals = gateway.metric(offered), gateway.metric(unavailable)
    monkeypatch.setattr(LOOP, "overloaded", lambda _: True)
    monkeypatch.setattr(gateway.app.state.runtime.access, "of", lambda _: 1 // 0)
    late = Late(gateway, 3.0)
    assert "overloaded" in refused(late.post(path), 503, "unavailable")["detail"]
    assert late.get("/livez").status_code == 200
    monkeypatch.undo()
    assert gateway.metric(unavailable) == refusals + 1
    assert gateway.metric(offered) > before  # what was refused counts as asked for


@pytest.mark.parametrize(("waited_s", "turn_s", "deadline_ms", "status"), [
    (0.05, 0.0, 10_000, 200), (0.3, 0.0, 10_000, 503), (3.0, 0.0, 10_000, 503),
    (0.5, 0.5, 10_000, 200), (0.7, 0.5, 10_000, 503),
    (2.0, 2.0, 10_000, 200), (2.6, 2.6, 10_000, 503), (0.5, 0.5, 1_500, 503),
])  # fmt: skip
def test_an_overloaded_loop_lets_in_what_waited_for_one_turn(
    gateway: Gateway,
    waited_s: float,
    turn_s: float,
    deadline_ms: int,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some have to be refused, and hear it at once; who is let in does not wait for them. But on a
    machine that lets the loop run seldom, everything waits for its turn, and is answered.
    """
    monkeypatch.setattr(LOOP, "overloaded", lambda _: True)
    monkeypatch.setattr(LOOP, "seconds", lambda _: turn_s)
    late = Late(gateway, waited_s)
    answer = late.post("/classify/plain", munet_deadline_ms=str(deadline_ms))
    assert answer.status_code == status


def test_a_loop_that_runs_seldom_is_not_crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """New connections wait for its turns, and no longer."""
    now = 100.0
    monkeypatch.setattr(loop_delay.time, "monotonic", lambda: now)
    loop = LoopDelay()
    loop.note(now)
    for now in (101.0, 102.0, 103.0):
        loop.note(now)
        loop.arrival(Connection(0.9), first=True)
        assert not loop._firsts.lasts(now)
    for now in (103.5, 104.6):
        loop.note(now)
        loop.arrival(Connection(2.9), first=True)
    assert loop._firsts.lasts(now)


@pytest.mark.parametrize(("turn_s", "status"), [(0.0, 200), (30.0, 503)])
def test_what_would_be_late_is_refused_by_the_delay_of_its_turns(
    gateway: Gateway, turn_s: float, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOOP, "seconds", lambda _: turn_s)
    late = Late(gateway, 2 * LATE_S)
    assert late.post("/classify/plain").status_code == status
    assert late.post("/classify/plain", munet_deadline_ms="9999999999").status_code == status


def test_a_request_that_waited_is_timed_from_its_arrival(gateway: Gateway) -> None:
    times = Late(gateway, 3.0).post("/classify/plain").json()["timing_ms"]
    assert times["receive"] > 2999
    assert times["total"] > 2999


def test_the_delay_of_the_loop_is_part_of_every_forecast(gateway: Gateway) -> None:
    """Even of an idle engine: its answer has to be sent, too."""
    runtime = gateway.app.state.runtime
    delay = 0.0
    unavailable = 'munet_rejected_total{reason="unavailable"}'
    before = gateway.metric(unavailable)
    runtime.batcher._admission._delay = lambda _: delay
    try:
        assert gateway.classify("plain", png(1), munet_deadline_ms="5000").status_code == 200
        delay = 6.0
        late = gateway.classify("plain", png(1), munet_deadline_ms="5000")
        assert "event loop" in refused(late, 503, "unavailable")["detail"]
        assert gateway.classify("plain", png(1)).status_code == 200
        assert gateway.metric(unavailable) == before + 1
    finally:
        runtime.batcher._admission._delay = LOOP.seconds
    eventually(lambda: gateway.classify("plain", png(1)).status_code == 200)


def test_a_client_that_leaves_no_time_is_not_the_gateways_refusal(gateway: Gateway) -> None:
    """Over every protocol that names a deadline; the alerts count what else is refused."""
    runtime = gateway.app.state.runtime
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["junk"]}
    runtime.batcher._admission._delay = lambda _: 0.5
    try:
        short = 'munet_rejected_total{reason="short-deadline"}'
        ours = 'munet_rejected_total{reason="unavailable"}'
        before = gateway.metric(short), gateway.metric(ours)
        late = gateway.classify("plain", png(1), munet_deadline_ms="400")
        refused(late, 503, "unavailable")
        assert (gateway.metric(short), gateway.metric(ours)) == (before[0] + 1, before[1])
        body = {"inputs": [tensor], "parameters": {"timeout": 400_000}}
        refused(gateway.request("POST", "/v2/models/plain/infer", json=body), 503, "unavailable")
        assert (gateway.metric(short), gateway.metric(ours)) == (before[0] + 2, before[1])
    finally:
        runtime.batcher._admission._delay = LOOP.seconds
