"""Samples on their way to files: a slow or full disk costs samples, never answers.

What waits, and what is being written, take at most MOST_BYTES of memory. A thread of its own makes
a file when enough has come, when the last one is a while ago, and at the end. So a killed process
loses at most what had not been written.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from service.samples.places import Place
from service.samples.table import Sample, parquet_of

logger = logging.getLogger(__name__)
MOST_BYTES = 16 * 2**20  # of samples in memory
MEMORY = 3 * MOST_BYTES  # with the file that is made of them
FILE_BYTES = 4 * 2**20  # of samples, from which on a file is written
WRITE_EVERY_S = 60.0
LAST_WORDS_S = 3.0
KEPT, NO_ROOM, FAILED = "kept", "no_room", "failed"


class Writer:
    """Takes samples from the event loop, and writes them to a place."""

    def __init__(
        self,
        place: Place,
        most_bytes: int,
        count: Callable[[str, int], object],
        *,
        write_every_s: float = WRITE_EVERY_S,
    ) -> None:
        """`most_bytes` is for all files at the place; `count` is told what became of samples."""
        self._place = place
        self._most_bytes = most_bytes
        self._count = count
        self._write_every_s = write_every_s
        self._changed = threading.Condition()
        self._waiting: list[Sample] = []
        self._waiting_bytes = self._writing_bytes = 0
        self._closing = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="samples", daemon=True)

    def start(self) -> None:
        """Starts the thread that writes."""
        self._thread.start()

    def stop(self) -> None:
        """Writes what waits, for a moment at most."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(LAST_WORDS_S)

    def offer(self, sample: Sample) -> None:
        """Takes a sample and a copy of its picture, or drops it; never waits for the disk."""
        size = sample.size
        with self._changed:
            room = MOST_BYTES - self._waiting_bytes - self._writing_bytes
            if taken := size <= room and not self._closing:
                self._waiting.append(sample.copied())
                self._waiting_bytes += size
                if self._waiting_bytes >= FILE_BYTES:
                    self._changed.notify()
        if not taken:
            self._count(NO_ROOM, len(sample.answers))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or self._waiting_bytes >= FILE_BYTES, self._write_every_s
                )
                samples, self._waiting = self._waiting, []
                self._writing_bytes, self._waiting_bytes = self._waiting_bytes, 0
                closing = self._closing
            if samples:
                self._write(samples)
            with self._changed:
                self._writing_bytes = 0
            if closing:
                return

    def _write(self, samples: list[Sample]) -> None:
        outcome = KEPT
        try:
            data = parquet_of(samples)
            self._make_room(len(data))
            self._place.write(name_at(time.time()), data)
        except Exception as error:  # of disks and object stores: nothing may end this thread
            outcome = FAILED
            if not self._failing:
                logger.warning("event=samples_not_kept error=%r", str(error))
        else:
            if self._failing:
                logger.warning("event=samples_kept_again")
        self._failing = outcome == FAILED
        self._count(outcome, sum(len(sample.answers) for sample in samples))

    def _make_room(self, needed: int) -> None:
        """Removes the oldest files, those of other gateways too."""
        sizes = self._place.sizes()
        total = sum(sizes.values()) + needed
        for name in sorted(sizes):
            if total <= self._most_bytes:
                return
            self._place.remove(name)
            total -= sizes[name]


def name_at(now: float) -> str:
    """A name that no other file has; `now` in seconds since 1970."""
    time = datetime.fromtimestamp(now, UTC)
    stamp = f"{time:%Y%m%dT%H%M%S}{time.microsecond // 1000:03d}Z"
    return f"samples-{stamp}-{secrets.token_hex(6)}.parquet"
