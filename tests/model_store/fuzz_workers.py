"""What a process does at a store that several use, and a log of what it was told is done."""

import json
import logging
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from model_store import StoreError
from model_store.files import leases
from tests.model_store.places import Place
from tests.model_store.simulation.actors import Actor, Op, Script
from tests.model_store.simulation.world import World


def shorten_leases(lease_s: float) -> None:
    """In this process, and for good."""
    leases.LEASE_S, leases.LEASE_POLL_S = lease_s, 0.1


def set_clock(ahead_s: float) -> None:
    """Let the clock on the wall of this process be ahead of all others, for good."""
    seconds, nanoseconds = time.time, time.time_ns
    time.time = lambda: seconds() + ahead_s
    time.time_ns = lambda: nanoseconds() + int(ahead_s * 1e9)


class Worker(Actor):
    """Does a script; what it begins and what is acknowledged is in its log."""

    def __init__(self, place: Place, name: str, log: Path) -> None:
        super().__init__(World.outside(), place.url, name, [])
        self._log = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.store = place.open()

    def note(self, *what: object) -> None:
        """Write a line, at once and whole."""
        os.write(self._log, json.dumps([time.monotonic_ns(), *what]).encode() + b"\n")

    def perform(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """An operation, if it is not interrupted."""
        try:
            self.note("begins", name, arguments)
            result = getattr(self, name)(*arguments)
            self.note("done", result)
        except KeyboardInterrupt:
            return True
        except (StoreError, OSError) as error:
            self.note("refused", f"{type(error).__name__}: {error}"[:300])
        except Exception as error:
            self.note("broken", f"{error!r}"[:300])
        return False


def work(
    place: Place, name: str, script: Script, log: Path, lease_s: float, ahead_s: float
) -> None:
    """One operation after the other; an interrupted one is followed by the next."""
    logging.disable(logging.CRITICAL)
    set_clock(ahead_s)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    shorten_leases(lease_s)
    with suppress(KeyboardInterrupt, StoreError, OSError):
        worker = Worker(place, name, log)
        for operation, *arguments in script:
            with suppress(KeyboardInterrupt):
                worker.perform(operation, tuple(arguments))


def read_log(log: Path, name: str) -> list[Op]:
    """The operations in a log."""
    found: list[Op] = []
    for line in log.read_text().splitlines() if log.exists() else ():
        at, what, *rest = json.loads(line)
        if what == "begins":
            found.append(Op(name, rest[0], tuple(rest[1]), start=at))
            continue
        op = found[-1]
        op.done = what == "done"
        op.result = tuple(rest[0]) if op.done and op.name == "publish" else rest[0]
        op.error = "" if op.done else f"{'BROKEN ' if what == 'broken' else ''}{rest[0]}"
        if op.done or op.is_void:
            op.end = at
    return found
