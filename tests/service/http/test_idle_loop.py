"""The event loop of a gateway that nobody asks is looked at seldom, and nothing is missed."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from service.http import loop_delay
from service.http.loop_delay import IDLE_TICK_S, TICK_S, LoopDelay


class Connection:
    """Says how long data has been there, and counts how often it is asked."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.asked = seconds, 0

    def get_extra_info(self, _: str) -> Any:
        return self

    def getsockopt(self, *_: int) -> bytes:
        self.asked += 1
        return bytes(52) + struct.pack("I", round(self.seconds * 1e3))


class Loop:
    """An event loop in virtual time that runs nothing but one timer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.timer = 100.0, (float("inf"), print)
        monkeypatch.setattr(loop_delay.time, "monotonic", lambda: self.now)

    def is_running(self) -> bool:
        return True

    def call_later(self, seconds: float, run: Any) -> Loop:
        self.timer = self.now + max(0.0, seconds), run
        return self

    def cancel(self) -> None:
        self.timer = float("inf"), print

    def run(self, seconds: float) -> int:
        """How many ticks there were."""
        end, ticks = self.now + seconds, 0
        while self.timer[0] <= end:
            self.now, run = self.timer
            run()
            ticks += 1
        self.now = end
        return ticks


def test_a_loop_is_measured_closely_only_while_requests_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, delay, connection = Loop(monkeypatch), LoopDelay(), Connection(0.0)
    delay.watch(loop)  # type: ignore[arg-type]
    loop.run(2.0)
    assert loop.run(10.0) == pytest.approx(10.0 / IDLE_TICK_S, abs=1)
    delay.arrival(connection, first=False)
    assert loop.run(1.0) == pytest.approx(1.0 / TICK_S, abs=1)
    for _ in range(10):
        delay.came(loop.now)  # over gRPC
        assert loop.run(0.5) == pytest.approx(0.5 / TICK_S, abs=1)
    loop.run(2.0)
    assert loop.run(10.0) == pytest.approx(10.0 / IDLE_TICK_S, abs=1)


def test_what_comes_to_an_idle_loop_has_waited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, delay, connection = Loop(monkeypatch), LoopDelay(), Connection(0.3)
    delay.watch(loop)  # type: ignore[arg-type]
    loop.run(5.0)
    assert delay.arrival(connection, first=False) == pytest.approx(loop.now - 0.3)
    assert (delay.arrival(connection, first=False), connection.asked) == (loop.now, 1)
    loop.run(5.0)
    loop.now += 3 * IDLE_TICK_S  # nothing ran meanwhile
    assert delay.seconds(loop.now) > 2 * IDLE_TICK_S
    delay.came(loop.now)
    assert delay.seconds(loop.now) > 2 * IDLE_TICK_S
    told: list[float] = []
    delay.ticked = told.append
    loop.run(0.0)
    assert told[0] > 2 * IDLE_TICK_S
