"""Ctrl-C, also where Python loses it.

Python raises KeyboardInterrupt between two instructions of the main thread. Where that is within a
callback whose errors are ignored, such as JAX's for the garbage collector, it is lost.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Gives a function that raises KeyboardInterrupt once Ctrl-C was pressed in this context.

    For the main thread. A process that ignores SIGINT, or has a handler of its own, keeps that.
    """
    pressed = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:
        signal.signal(signal.SIGINT, handle)
    try:
        yield check
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)
