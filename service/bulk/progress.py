"""The line that tells how far a table is; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from service.bulk.answering import Answered

PLAIN_EVERY_S = 30.0  # between lines without a terminal


class Progress:
    """Counts images, and shows them."""

    def __init__(
        self,
        total: int,
        done: int,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`done` are the images of earlier runs."""
        self._total, self._console, self._clock = total, console, clock
        self.done, self._before = done, done
        self.errors = 0  # images without an answer of some task, in this run
        self._began = self._answering = self._told = clock()
        self._live: Live | None = None

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._clock() - self._began

    @property
    def images(self) -> int:
        """Of this run."""
        return self.done - self._before

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the line within the context."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, transient=True, auto_refresh=False) as self._live:
            self._show("reading the models, and compiling what is new")
            yield

    def begin(self) -> None:
        """The models are there: from now on is known how long images take."""
        self._answering = self._clock()

    def count(self, chunk: Sequence[Answered]) -> None:
        """These have been answered."""
        self.done += len(chunk)
        self.errors += sum(any(one.error for one in answers) for _, answers in chunk)
        self._show(self.line())

    def line(self) -> str:
        """How far it is, how fast, and what is left, within 80 columns."""
        told = f"{self.done:,} of {self._total:,} images"
        if self.errors:
            told += f", {self.errors:,} failed"
        spent_s = self._clock() - self._answering
        if self.images and spent_s > 0:
            speed = self.images / spent_s
            left_s = (self._total - self.done) / speed
            told += f", {speed:,.{0 if speed >= 10 else 1}f} images/s, {duration(left_s)} left"
        return told

    def _show(self, line: str) -> None:
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif self._clock() - self._told >= PLAIN_EVERY_S:
            self._told = self._clock()
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    seconds = round(seconds)
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
