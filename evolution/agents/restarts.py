"""When to restart an agent that died: after a longer time each time, and not for ever."""

from __future__ import annotations

import time

from evolution.agents.view import View
from evolution.agents.worker import Order

RESTARTS = 5  # in a row, without a report in between
BACK_OFF_S = 1.0  # before the first of them; twice as long before each further one


class Member:
    """An agent to run, and its crashes."""

    def __init__(self, agent: str, order: Order) -> None:
        self.agent = agent
        self.order = order
        self.failed: str | None = None  # why it cannot continue
        self.crashes = 0  # since its last report
        self.starts_at: float | None = 0.0  # None: it is not started again

    @property
    def due(self) -> bool:
        """Whether it is time to start it."""
        return self.starts_at is not None and self.starts_at <= time.monotonic()

    def fail(self, why: str, view: View) -> None:
        """Notes that it must not be started again."""
        self.failed = why
        view.say(f"{self.agent} cannot go on: {why}")

    def crash(self, how: str, view: View) -> None:
        """Plans a restart, unless it has crashed too often in a row."""
        if self.crashes == RESTARTS:
            self.failed = how
            view.say(f"{self.agent} {how}, {RESTARTS + 1} times in a row; given up")
            return
        delay = BACK_OFF_S * 2**self.crashes
        self.crashes += 1
        self.starts_at = time.monotonic() + delay
        view.say(f"{self.agent} {how}; started again in {delay:.0f} s")
