"""How the C library keeps freed memory.

By default glibc gives threads pools of their own, up to eight for each core. Components are read by
many threads and freed by others: what one pool has free the next load cannot use, and resident
memory creeps up with every task that comes and goes.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_ARENA_MAX = -8  # malloc.h
ARENAS = 2  # the engine's thread and a loading one seldom wait for each other


def keep_few_pools() -> None:
    """For threads begun from now on; does nothing with another C library than glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
