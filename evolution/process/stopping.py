"""How a command ends when it is told to, by Ctrl-C (SIGINT) or SIGTERM.

The first signal ends the command after the present step, which is saved; outside a step, at once.
The second ends the process at once. The exit code is 128 + the signal: 130 or 143.

Python runs signal handlers in the main thread only, between two instructions. A main thread that
waits for XLA does not run them. So another thread reads the signals. The interpreter's shutdown is
left out, as it crashes while threads of XLA compute.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
DEAF_S = 0.3  # if the main thread has not seen a signal by then, another thread reports it
SHOW_CURSOR = b"\x1b[?25h\n"


@dataclass(slots=True)
class _Heard:
    """The signals that came within `listening`."""

    first: int | None = None  # the first signal
    told: threading.Lock = field(default_factory=threading.Lock)  # held once `stop` is called


_heard: _Heard | None = None  # None: not listening
_steps = 0  # how many are open, one within the other
_stop: Callable[[], None] | None = None
_at_once: Callable[[], None] | None = None


class Stopped(SystemExit):
    """Ends a command that was told to stop, after it printed how to continue."""


def exit_code() -> int | None:
    """The exit code of a command that was told to stop; None if it was not."""
    return 128 + _heard.first if _heard and _heard.first else None


def leave(code: int) -> NoReturn:
    """Ends the process without the interpreter's shutdown."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


@contextmanager
def step() -> Iterator[None]:
    """A `stoppable` process ends after this, not within it; includes the saving."""
    global _steps
    _steps += 1
    try:
        yield
    finally:
        _steps -= 1


@contextmanager
def stoppable(
    stop: Callable[[], None], at_once: Callable[[], None] | None = None
) -> Iterator[None]:
    """Within it the first signal calls `stop`; the second calls `at_once` and ends the process.

    Outside a step, the first raises KeyboardInterrupt as well. `stop` may be called in another
    thread, and `at_once` is.
    """
    global _stop, _at_once
    former = _stop, _at_once
    _stop, _at_once = stop, at_once
    try:
        with listening():
            yield
    finally:
        _stop, _at_once = former


def interrupt() -> None:
    """Acts as the first signal does outside a step; does nothing within one, or after a signal."""
    if not _steps and _heard is not None and _heard.first is None:
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def listening() -> Iterator[None]:
    """Within it signals end the process as this module says. For the main thread."""
    handlers = {number: signal.signal(number, _hear) for number in SIGNALS}
    try:
        if _heard is None:
            with _thread():
                yield
        else:
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _thread() -> Iterator[None]:
    global _heard
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    former = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    _heard = _Heard()
    threading.Thread(target=_read, args=(ours, _heard), name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        pythons.close()
        _heard = None


def _read(signals: socket.socket, heard: _Heard) -> None:
    """Runs in its own thread and sees each signal as it comes."""
    count = 0
    with signals:
        while data := signals.recv(16):
            for number in data:
                if number not in SIGNALS:
                    continue
                count += 1
                if count == 2:
                    _end(number)
                heard.first = number
                timer = threading.Timer(DEAF_S, _tell, (heard,))
                timer.daemon = True
                timer.start()


def _end(number: int) -> NoReturn:
    if _at_once is not None:
        _at_once()
    if os.isatty(1):
        os.write(1, SHOW_CURSOR)
    os._exit(128 + number)


def _hear(number: int, _: Any) -> None:
    """Runs in the main thread and ends its work outside a step."""
    if _heard is not None:
        _heard.first = _heard.first or number
        _tell(_heard)
    if not _steps or _stop is None:
        raise KeyboardInterrupt


def _tell(heard: _Heard) -> None:
    stop = _stop
    if stop is not None and heard.told.acquire(blocking=False):
        stop()
