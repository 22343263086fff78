"""Waiting for something that another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 60.0  # only ever spent by a test that fails


def eventually(look: Callable[[], T], timeout_s: float = PATIENCE_S) -> T:
    """The first true value of `look`; fails if there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"still {found!r} after {timeout_s} s"
        time.sleep(0.02)
    return found
