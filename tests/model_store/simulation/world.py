"""Processes that take turns, and what can happen to them.

A process is a greenlet, or several. It gives the turn away before each system call and around each
request, and then something may happen to it. Time passes only here.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from greenlet import getcurrent, greenlet

from tests.model_store.simulation.fate import Fate, Script

MOST_TURNS = 20_000  # a history that takes more is taken for one that does not end
TURN_S = 0.1
DOZES_S = (5.0, 20.0, 200.0, 2000.0)
BEGIN = 1_700_000_000.0


class Killed(BaseException):
    """SIGKILL: raised at every further turn, so that nothing which unwinds has an effect."""


class NeverEnds(Exception):
    """A history goes on and on: somebody waits for what never comes."""


@dataclass(eq=False)
class Process:
    """One process: its threads die together."""

    name: str
    threads: list[greenlet] = field(default_factory=list)
    dead: bool = False
    stopped_until: float = 0.0
    stopped_s: float = 0.0  # in all
    changes: int = 0  # how many it has sent
    nap_s: float = 0.0  # it is stopped for so long next
    wakes: dict[greenlet, Callable[[], bool]] = field(default_factory=dict)
    outcome: BaseException | None = None
    operation: int = 0  # how many it has begun
    decisions: int = 0  # since then
    signal_in: int | None = None  # how many more steps until it is interrupted


class World:
    """Runs processes until all have ended."""

    def __init__(self, fate: Fate, late_s: float) -> None:
        self.fate = fate
        self.late_s = late_s
        self.now = BEGIN
        self.skew_s = 0.0  # of the clock on the wall, which may be set
        self.turns = 0
        self.power_failed = False
        self.processes: list[Process] = []
        self.trace: list[tuple[float, str, str]] = []
        self.changed: dict[str, int] = {}  # key -> when it was made or removed last
        self.written: dict[str, list[tuple[bytes, int]]] = {}  # documents, and when they were so
        self.on_acknowledged: dict[int, list[Callable[[], None]]] = {}  # at this many operations
        self.naps: dict[tuple[str, int], float] = {}  # process, after how many changes -> seconds
        self._acknowledged = 0
        self.seen: set[str] = set()  # what happened, for those who want to know how wide the net is
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._hub = getcurrent()
        self._of: dict[greenlet, tuple[Process, str]] = {}
        self._alone: Process | None = None

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
        number = len(process.threads)
        process.threads.append(thread)
        self._of[thread] = process, f"{process.name}/{number}" if number else process.name
        return thread

    @classmethod
    def outside(cls) -> World:
        """One in which nothing ever happens."""
        return cls(Script((), {}), 0.0)

    def tick(self) -> int:
        """A number larger than all before."""
        return next(self._count)

    def wrote(self, key: str, data: bytes, before: bytes | None) -> None:
        """A document was written."""
        if key.startswith("refs/") and key != "refs/changes":
            first = [] if before is None else [(before, 0)]
            self.written.setdefault(key, first).append((data, self.tick()))

    def acknowledged(self) -> None:
        """An operation was."""
        self._acknowledged += 1
        for effect in self.on_acknowledged.pop(self._acknowledged, []):
            effect()

    @property
    def process(self) -> Process | None:
        """Whose turn it is; None outside the simulation."""
        found = self._of.get(getcurrent())
        return found[0] if found else self._alone

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
            self.turns += 1
            if self.turns > MOST_TURNS:
                raise NeverEnds
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            ready = [t for t in self._alive() if self._is_ready(t)]
            if ready:
                self.now += TURN_S
                chosen = self.fate.turn([self._of[thread][1] for thread in ready])
                ready[chosen].switch()
            elif not self._pass_time():
                return

    def _alive(self) -> list[greenlet]:
        gone = [thread for thread in self._of if thread.dead]
        for thread in gone:
            del self._of[thread]
        return list(self._of)

    def _is_ready(self, thread: greenlet) -> bool:
        process = self._of[thread][0]
        if process.dead:
            return True
        if self.now < process.stopped_until:
            return False
        wake = process.wakes.get(thread)
        return wake is None or wake()

    def _pass_time(self) -> bool:
        """To the next thing that is due; False if there is nothing."""
        if not self._events:
            if self._alive():
                raise NeverEnds
            return False
        self.now = max(self.now, self._events[0][0])
        return True

    @staticmethod
    def is_shared(key: str) -> bool:
        """Whether this is the file of a gc, or a document."""
        return key == "gc" or key.startswith("refs/")

    def later(self, seconds: float, effect: Callable[[], None]) -> None:
        """Something that happens by itself."""
        heapq.heappush(self._events, (self.now + seconds, next(self._count), effect))

    def step(self, what: str, place: str = "step") -> None:
        """The turn goes to others; when it comes back, something may have happened to this one."""
        process = self.process
        if process is None or process is self._alone:
            return
        self._hub.switch()
        if process.dead:
            raise Killed
        self.trace.append((self.now, process.name, what))
        self._happen(process, place)

    def event(self, place: str) -> tuple[str, float]:
        """What happens here, and how much; nothing to one who is alone in the world."""
        process = self.process
        if process is None or process is self._alone:
            return "", 0.0
        number = process.name, process.operation, process.decisions
        process.decisions += 1
        return self.fate.event(place, number) or ("", 0.0)

    def signal_others(self, steps: int) -> None:
        """All but the one whose turn it is are interrupted after some steps more."""
        for process in self.processes:
            if process is not self.process:
                process.signal_in = steps

    def _happen(self, process: Process, place: str = "step") -> None:
        kind, amount = self.event(place)
        if process.nap_s:
            nap_s, process.nap_s = process.nap_s, 0.0
            self._stop(process, nap_s)
        if process.signal_in is not None:
            process.signal_in -= 1
            if process.signal_in < 0 and getcurrent() is process.threads[0]:
                process.signal_in, kind = None, "interrupt"
        if kind == "kill":
            self.note(process, "killed")
            process.dead = True
            raise Killed
        if kind == "stop":
            self._stop(process, (0.5, 5.0, *self.long())[int(amount * 4) % 4])
        if kind == "doze":
            self.doze(amount)
        # A signal reaches the first thread of a process; what the others do goes on.
        if kind == "interrupt" and getcurrent() is process.threads[0]:
            self.note(process, "interrupted")
            raise KeyboardInterrupt

    def doze(self, amount: float) -> None:
        """The process whose turn it is sleeps, before it reads what others write."""
        assert self.process is not None
        self._stop(self.process, DOZES_S[int(amount * 4) % 4])

    def long(self) -> tuple[float, float]:
        """Longer than a lease lasts, and much longer."""
        return 1.5 * self.late_s + 5, 10 * self.late_s + 500

    def _stop(self, process: Process, seconds: float) -> None:
        self.note(process, f"stopped for {seconds:.0f} s")
        process.stopped_until = self.now + seconds
        process.stopped_s += seconds
        self.later(seconds, lambda: None)
        self._hub.switch()
        if process.dead:
            raise Killed

    def changes(self) -> None:
        """The process whose turn it is sends a change, after which it may have a nap."""
        process = self.process
        if process is not None and process is not self._alone:
            process.changes += 1
            process.nap_s = self.naps.pop((process.name, process.changes), 0.0)

    def interrupt(self) -> None:
        """The process whose turn it is gets a signal."""
        process = self.process
        assert process is not None
        process.signal_in = 0

    def wait(self, until: Callable[[], bool]) -> None:
        """Until this is true."""
        process, thread = self.process, getcurrent()
        assert process is not None
        if process is self._alone:
            while not until():
                if not self._events:
                    raise NeverEnds
                self._pass_time()
                heapq.heappop(self._events)[2]()
            return
        process.wakes[thread] = until
        self._hub.switch()
        del process.wakes[thread]
        if process.dead:
            raise Killed
        self._happen(process)

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        end = self.now + seconds
        self.later(seconds, lambda: None)
        self.wait(lambda: self.now >= end)

    def alone(self, name: str, work: Callable[[], Any]) -> None:
        """One process is alone in a calm world: it goes on without turns."""
        self.fate = Script((), {})
        self._alone = Process(name)
        try:
            work()
        finally:
            self._alone = None

    @property
    def is_calm(self) -> bool:
        """Whether who asks is alone, or outside the simulation."""
        return getcurrent() not in self._of

    def note(self, process: Process | None, what: str) -> None:
        """A line of the trace."""
        self.seen.add(what.split(" ")[0])
        self.trace.append((self.now, process.name if process else "-", f"  *** {what}"))

    def told(self) -> list[str]:
        """All that happened."""
        return [f"{now - BEGIN:9.3f} {name} {what}" for now, name, what in self.trace]
