"""How much memory decoding may take at once, in all threads: taken before it begins."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import TooLarge

# Of what C frees, glibc keeps blocks of up to 32 MiB for the thread they were freed in, and of
# several threads some hundred megabytes: from this size on, all is given back.
GIVEN_BACK_BYTES, KEPT_BYTES = 2**23, 2**25
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1


def give_back_large_blocks() -> None:
    """For this process; where C's library is another, nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)
    mallopt(M_MMAP_THRESHOLD, GIVEN_BACK_BYTES)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back_free_memory() -> None:
    """What C's library keeps for later goes back to the system; only glibc has this."""
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


class DecodeMemory:
    """Bytes that pictures share; a picture that does not fit waits, first come, first served.

    A picture waits only for those that are being decoded, so never for long: what it holds it gives
    back without waiting for anything else.
    """

    def __init__(self, limit: int) -> None:
        """`limit` in bytes."""
        give_back_large_blocks()
        self._limit = limit
        self._held = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @property
    def free(self) -> int:
        """Bytes that no picture holds."""
        return self._limit - self._held

    @contextmanager
    def holding(self, size: int, perhaps: int = 0) -> Iterator[None]:
        """Holds `size` bytes during the work; raises TooLarge if the limit is smaller than that.

        The work hardly ever needs `perhaps` bytes more: if both are more than the limit, it waits
        until nothing else is decoded.
        """
        if size > self._limit:
            raise TooLarge(
                f"decoding the image takes {size} bytes of memory, and all decoding together may "
                f"take {self._limit}: send a smaller image, or raise MUNET_DECODE_MEMORY"
            )
        size = min(size + perhaps, self._limit)
        with self._changed:
            if self._waiting or self._held + size > self._limit:
                self._wait(size)
            self._held += size
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                if self._waiting:
                    self._changed.notify_all()

    def _wait(self, size: int) -> None:
        place = object()
        self._waiting.append(place)
        try:
            self._changed.wait_for(
                lambda: self._waiting[0] is place and self._held + size <= self._limit
            )
        finally:
            self._waiting.remove(place)
            self._changed.notify_all()
