"""Processes that take turns, and what can happen to them; all of it determined by a seed.

A process is a greenlet. It gives the turn away before each system call and around each request, and
then something may happen to it. Time passes only here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from greenlet import getcurrent, greenlet

MOST_TURNS = 20_000  # a history that takes more is taken for one that does not end


class Killed(BaseException):
    """SIGKILL: raised at every further turn, so that nothing which unwinds has an effect."""


class NeverEnds(Exception):
    """A history goes on and on: somebody waits for what never comes."""


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely things are, each time that they may happen."""

    kill: float = 0.0
    interrupt: float = 0.0
    stop: float = 0.0  # for some time, as by SIGSTOP
    fail: float = 0.0  # a system call, or a request before it takes effect
    lose: float = 0.0  # the reply of a request that took effect
    late: float = 0.0  # a request that is not answered takes effect later
    lie: float = 0.0  # a size is read as 0


CALM = Weather()


@dataclass(eq=False)
class Process:
    """One process: its threads die together."""

    name: str
    threads: list[greenlet] = field(default_factory=list)
    dead: bool = False
    stopped_until: float = 0.0
    wakes: dict[greenlet, Callable[[], bool]] = field(default_factory=dict)
    outcome: BaseException | None = None


class World:
    """Runs processes until all have ended."""

    def __init__(self, seed: int, late_s: float) -> None:
        self.random = random.Random(seed)
        self.weather = CALM
        self.late_s = late_s
        self.now = 1_700_000_000.0
        self.turn = 0
        self.processes: list[Process] = []
        self.trace: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._hub = getcurrent()
        self._of: dict[greenlet, Process] = {}

    # -- processes

    def start(self, name: str, work: Callable[[], Any]) -> Process:
        """A process that does this work."""
        process = Process(name)
        self.processes.append(process)
        self._thread(process, work)
        return process

    def _thread(self, process: Process, work: Callable[[], Any]) -> greenlet:
        def run() -> None:
            try:
                work()
            except Killed:
                pass
            except BaseException as error:  # the driver of a history looks at it
                process.outcome = error

        thread = greenlet(run, self._hub)
        process.threads.append(thread)
        self._of[thread] = process
        return thread

    @property
    def process(self) -> Process | None:
        """Whose turn it is; None outside the simulation."""
        return self._of.get(getcurrent())

    def at_once(self, works: list[Callable[[], Any]]) -> list[Any]:
        """What these give, each in a thread of this process; then raises the first error."""
        process = self.process
        assert process is not None
        results: list[Any] = [None] * len(works)
        errors: list[tuple[int, Exception]] = []

        def run(index: int) -> None:
            try:
                results[index] = works[index]()
            except Exception as error:
                errors.append((index, error))

        threads = [self._thread(process, lambda i=i: run(i)) for i in range(len(works))]
        self.wait(lambda: all(thread.dead for thread in threads))
        if errors:
            raise min(errors, key=lambda item: item[0])[1]
        return results

    # -- turns

    def run(self) -> None:
        """Until every process has ended and nothing is late any more. Raises NeverEnds."""
        while True:
            self.turn += 1
            if self.turn > MOST_TURNS:
                raise NeverEnds
            self._happen()
            ready = [t for p in self.processes for t in p.threads if self._is_ready(p, t)]
            if ready:
                self.now += self.random.choice((0.001, 0.01, 0.1, 1.0))
                self.random.choice(ready).switch()
            elif not self._pass_time():
                return

    def _is_ready(self, process: Process, thread: greenlet) -> bool:
        if thread.dead or (not process.dead and self.now < process.stopped_until):
            return False
        wake = process.wakes.get(thread)
        return process.dead or wake is None or wake()

    def _happen(self) -> None:
        due = sorted(event for event in self._events if event[0] <= self.now)
        self._events = [event for event in self._events if event[0] > self.now]
        for _, _, effect in due:
            effect()

    def _pass_time(self) -> bool:
        """To the next thing that is due; False if there is nothing."""
        alive = [p for p in self.processes if not all(t.dead for t in p.threads)]
        times = [at for at, _, _ in self._events] + [p.stopped_until for p in alive]
        times = [at for at in times if at > self.now]
        if not times:
            if alive:
                raise NeverEnds
            return False
        self.now = min(times)
        return True

    def later(self, seconds: float, effect: Callable[[], None]) -> None:
        """Something that happens by itself."""
        self._events.append((self.now + seconds, len(self._events) + self.turn * 1000, effect))

    def step(self, what: str) -> None:
        """The turn goes to others; when it comes back, something may have happened to this one."""
        process = self.process
        if process is None:
            return
        self._hub.switch()
        self._survive(process, what)

    def wait(self, until: Callable[[], bool]) -> None:
        """Until this is true."""
        process, thread = self.process, getcurrent()
        assert process is not None
        process.wakes[thread] = until
        self._hub.switch()
        del process.wakes[thread]
        if process.dead:
            raise Killed

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        end = self.now + seconds
        self.later(seconds, lambda: None)
        self.wait(lambda: self.now >= end)

    def chance(self, likelihood: float) -> bool:
        """Whether something that is so likely happens."""
        return likelihood > 0 and self.random.random() < likelihood

    def _survive(self, process: Process, what: str) -> None:
        if process.dead:
            raise Killed
        self.trace.append(f"{self.now - 1_700_000_000:9.3f} {process.name} {what}")
        weather = self.weather
        if self.chance(weather.kill):
            self.note(process, "killed")
            process.dead = True
            raise Killed
        if self.chance(weather.stop):
            seconds = self.random.choice((0.5, 5.0, 1.5 * self.late_s + 5, 10 * self.late_s + 500))
            self.note(process, f"stopped for {seconds:.0f} s")
            process.stopped_until = self.now + seconds
            self.later(seconds, lambda: None)
            self._hub.switch()
            if process.dead:
                raise Killed
        if self.chance(weather.interrupt):
            self.note(process, "interrupted")
            raise KeyboardInterrupt

    def note(self, process: Process | None, what: str) -> None:
        """A line of the trace."""
        name = process.name if process else "-"
        self.trace.append(f"{self.now - 1_700_000_000:9.3f} {name}   *** {what}")
