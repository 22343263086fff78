"""The line that follows the present child; plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from evolution.events import child_of
from evolution.process.time_budget import Clock
from evolution.run import Run
from evolution.runs.following import tell
from evolution.runs.formats import duration

PLAIN_EVERY_S = 30.0  # between lines without a terminal


class ChildLine:
    """Follows the children of a search, one after the other."""

    def __init__(self, search: Run, console: Console, clock: Clock) -> None:
        """Shows nothing yet."""
        self._search = search
        self._console = console
        self._clock = clock
        self._live: Live | None = None
        self._told = clock()
        self._first: tuple[float, int] | None = None  # time and number of the first steps

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the line within the context."""
        self._search.on_steps = self._steps
        try:
            if not self._console.is_terminal:
                yield
                return
            with Live(console=self._console, transient=True, auto_refresh=False) as self._live:
                self.next_child()
                yield
        finally:
            self._search.on_steps = None

    def next_child(self) -> None:
        """The next child starts, if there is one."""
        self._first = None
        number = self._search.progress.generation + 1
        if number <= self._search.experiment.samples_per_task:
            self._show(f"{self._name}: reading pictures and compiling")
        else:
            self._show("measuring on the test pictures")

    @property
    def _name(self) -> str:
        progress, experiment = self._search.progress, self._search.experiment
        most, budget_s = experiment.samples_per_task, experiment.budget_s
        return child_of(progress.generation + 1, most, at_most=budget_s is not None)

    def _steps(self, done: int, of: int, loss: float) -> None:
        now = self._clock()
        if self._first is None or done <= self._first[1]:
            self._first = now, done  # the first steps waited for compilation
        since, before = self._first
        told = f"{self._name}: step {done:,} of {of:,}, loss {loss:.3f}"
        if done > before and now > since:
            each = (now - since) / (done - before)
            speed = self._search.experiment.batch_size / each
            told += f", {speed:,.0f} pictures/s, {duration((of - done) * each)} left"
        self._show(told)

    def _show(self, line: str) -> None:
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif self._clock() - self._told >= PLAIN_EVERY_S:
            self._told = self._clock()
            tell(self._console, line)
