"""How far the event loop is behind, and since when the bytes of a request have been waiting for it.

An overloaded loop is late for everything, also for new requests: their bytes wait in the kernel,
where no clock of ours runs. New connections wait there too, as the loop accepts only a few at each
turn. Law: a request counts from when its bytes reached this machine. If the loop is in time and
knows the connection, that is now; else the kernel is asked.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

ARRIVED = "munet.arrived"  # in a request's scope: when its bytes came, a time of `time.monotonic`
TICK_S = 0.05
# Without a request for a second it ticks this seldom: an idle gateway costs almost nothing. What
# comes next ends that, and the kernel is asked for how long it has waited.
IDLE_TICK_S, IDLE_TICKS = 0.5, 20
BEHIND_S = 0.02  # less is nothing that a deadline would notice
# If everything is late by LATE_S for STANDING_S, a queue stands (controlled delay, Nichols and
# Jacobson 2012); a burst or a pause of the machine is shorter. The queue has ended when nothing was
# late for STANDING_S: with less, it would grow again and again.
LATE_S, STANDING_S = 0.1, 1.0
# Of Linux's struct tcp_info: eight bytes, then numbers of four; milliseconds since data came last.
TCP_INFO, LAST_DATA, INFO_BYTES = getattr(socket, "TCP_INFO", None), 52, 56


class Standing:
    """Whether a queue stands, by how late what comes out of it is."""

    def __init__(self) -> None:
        self._since = math.inf  # from when on everything was late
        self._until = -math.inf

    def note(self, now: float, seconds: float) -> None:
        """Something was late by `seconds`, at the time `now`."""
        if seconds < LATE_S:
            self._since = math.inf
            return
        self._since = min(self._since, now)
        if now - self._since > STANDING_S or self.lasts(now):
            self._until = now + STANDING_S

    def lasts(self, now: float) -> bool:
        """Whether it stands now."""
        return now < self._until


class LoopDelay:
    """Of one event loop, measured by ticks that say how late they are."""

    def __init__(self) -> None:
        """Says that the loop is in time until `watch` is called."""
        self.ticked: Callable[[float], None] = lambda _: None  # is told how late each tick was
        self.read: Callable[[float], None] = lambda _: None  # how long bytes waited, if it is late
        self.arrivals = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._late_s = 0.0  # of the last tick
        self._due = math.inf  # when the next tick should run
        self._timer: asyncio.TimerHandle | None = None  # of the next tick
        self._arrived_before = self._quiet_ticks = 0
        self._ticks, self._firsts = Standing(), Standing()  # of new connections the first bytes
        self._busy_s = self._busy_before_s = 0.0  # processor time of its thread
        self._missed_s = 0.0

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to measure a running loop, on its thread, unless it is measured already."""
        if self._loop is not loop:
            self._loop, self._due = loop, math.inf
            self._ticks, self._firsts = Standing(), Standing()
            self._busy_before_s = time.thread_time() - self._busy_s
            self._quiet_ticks = 0
            self._tick()

    def _tick(self) -> None:
        assert self._loop is not None
        quiet = self.arrivals == self._arrived_before
        self._quiet_ticks = self._quiet_ticks + 1 if quiet else 0
        self._arrived_before = self.arrivals
        pause_s = IDLE_TICK_S if self._idle else TICK_S
        self.note(time.monotonic(), pause_s)
        self._busy_s = time.thread_time() - self._busy_before_s
        self._timer = self._loop.call_later(pause_s, self._tick)

    def note(self, now: float, pause_s: float = TICK_S) -> None:
        """A tick runs at this time, and the next one after `pause_s`."""
        self._late_s = max(0.0, now - self._due)
        self._ticks.note(now, self._late_s)
        self._due = now + pause_s
        self.ticked(self._late_s)

    @property
    def _idle(self) -> bool:
        return self._quiet_ticks >= IDLE_TICKS

    def came(self, now: float) -> None:
        """A request came, on the loop's thread: the loop is measured closely again."""
        self.arrivals += 1
        if self._idle and self._loop is not None and self._loop.is_running():
            self._quiet_ticks, self._due = 0, min(self._due, now + TICK_S)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(self._due - now, self._tick)

    def seconds(self, now: float) -> float:
        """How long something has to wait for its turn now; 0 of a loop that has ended."""
        if self._loop is not None and not self._loop.is_running():
            return 0.0
        late_s = now - self._due
        return late_s if late_s > self._late_s else self._late_s

    def overloaded(self, now: float) -> bool:
        """Whether more comes than the loop can do."""
        return (self._ticks.lasts(now) or self._firsts.lasts(now)) and not self._ended()

    def _ended(self) -> bool:
        return self._loop is not None and not self._loop.is_running()

    def arrival(self, transport: Any, *, first: bool) -> float:
        """When the bytes reached this machine that are read from a connection now.

        `first`: they are the first of a new connection.
        """
        now = time.monotonic()
        known = not first and not self._idle
        self.came(now)
        if known and self.seconds(now) < BEHIND_S:
            return now
        waited_s = _waited(transport.get_extra_info("socket"))
        self.read(waited_s)
        if first:
            self._firsts.note(now, waited_s - self.seconds(now))  # each waits for one turn
        return now - waited_s

    def missed(self) -> None:
        """Counts the cost of a request that was refused because the loop is behind."""
        self._missed_s += self._busy_s / max(1, self.arrivals)

    @property
    def offered_s(self) -> float:
        """Processor time of its thread, and of the requests that were refused, as estimated."""
        return self._busy_s + self._missed_s


def _waited(connection: Any) -> float:
    """Seconds since the kernel received the last data of a connection; 0 if it does not say."""
    if TCP_INFO is None or connection is None:
        return 0.0
    try:
        found = connection.getsockopt(socket.IPPROTO_TCP, TCP_INFO, INFO_BYTES)
    except OSError:  # no TCP, as over a Unix socket
        return 0.0
    return struct.unpack_from("I", found, LAST_DATA)[0] / 1e3 if len(found) == INFO_BYTES else 0.0


LOOP = LoopDelay()  # of this process, whose server has one event loop
