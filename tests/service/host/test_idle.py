"""A gateway that nobody asks sleeps: its processor is there for others."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path

from tests.service.conftest import Served
from tests.service.waiting import eventually

LOOK_S = 2.0
MOST = 40.0  # times in a second that some thread wakes up, with those that watch it for the tests


def wakeups(main: int) -> int:
    """How often a thread of a gateway's processes has gone to sleep so far."""
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    found = 0
    for process in (str(main), *children):
        for status in Path(f"/proc/{process}/task").glob("*/status"):
            with suppress(OSError):  # it has ended
                slept = re.search(r"^voluntary_ctxt_switches:\s*(\d+)$", status.read_text(), re.M)
                found += int(slept[1]) if slept else 0
    return found


def test_it_wakes_up_seldom(served: Served) -> None:
    def seldom() -> bool:
        started, before = time.monotonic(), wakeups(served.server.process.pid)
        time.sleep(LOOK_S)
        woken = wakeups(served.server.process.pid) - before
        return woken / (time.monotonic() - started) <= MOST

    eventually(seldom)


def test_its_answers_tell_the_date_all_the_same(served: Served) -> None:
    def date() -> str:
        return served.server.ask("GET", "/livez").headers["date"]

    first = date()
    eventually(lambda: date() != first)
