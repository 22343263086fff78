"""The order of waiting requests: fair between tasks by estimated work, weighted by priority.

Start-time fair queueing (Goyal et al. 1996). A flow is the waiting requests of one task, from one
caller, at one level. Each flow has a tag in virtual time, which grows by the work that was done for
it, and the lowest tag is next. So flows that always have requests waiting get equal work, and a
flow that comes back after a pause is next. It knows neither time nor threads.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from service.compute.tuning import LOWEST, MANY_ENTRIES, MANY_FINISHED, MIDDLE, WEIGHTS

Flow = tuple[str, int, str]  # task, level and caller
ASIDE = -1  # no entry: the flow stands aside


@dataclass(slots=True)
class Ask:
    """A request as the queues see it, with one row for each task; never changed."""

    tasks: Sequence[str]  # of each row; it waits in the first one's flow
    costs: Sequence[float]  # of each row: estimated work in any unit, above 0
    deadline: float  # a time of the batcher's clock
    priority: int = 0  # 1 highest, 2 or 0 normal, 3 and above lowest
    caller: str = ""  # who asks
    shadowed: bool = False  # whether rows of it have shadows
    flow: Flow = field(init=False)  # where it waits
    level: int = field(init=False)  # a key of WEIGHTS
    work: float = field(init=False)  # of all its rows

    def __post_init__(self) -> None:
        """Computed once, read at every turn."""
        self.level = min(self.priority, LOWEST) if self.priority else MIDDLE
        self.flow = self.tasks[0], self.level, self.caller
        self.work = sum(self.costs)


class Item(Protocol):
    """What the queue holds."""

    @property
    def ask(self) -> Ask:
        """Its tasks, costs and priority."""
        ...


T = TypeVar("T", bound=Item)


@dataclass(slots=True)
class _Line(Generic[T]):
    """What waits in one flow, in the order of its arrival."""

    since: float  # virtual time when it began to wait
    waiting: deque[T] = field(default_factory=deque)
    entry: int = ASIDE  # its one entry of the heap that is valid


class FairQueue(Generic[T]):
    """Requests by flow. After a `pop`, the request's flow stands aside until it is settled.

    Settled means one of: `charge` (it runs), `drop` (it never will), `put_back` (not yet).
    """

    def __init__(self) -> None:
        self._lines: dict[Flow, _Line[T]] = {}
        self._arrived: dict[T, None] = {}  # all that wait, in order
        self._heap: list[tuple[float, int, Flow]] = []  # (tag or less, tie-break, flow)
        self._finish: dict[Flow, float] = {}  # where a flow's next tag starts at the earliest
        self._virtual = 0.0  # the tag of what was last given the engine
        self._sequence = itertools.count()

    def push(self, request: T) -> bool:
        """Queues it; whether it is light: others wait, and of its flow nothing does or had more
        than its share."""
        flow = request.ask.flow
        self._arrived[request] = None
        line = self._lines.get(flow)
        if line is not None:
            line.waiting.append(request)
            return False
        self._lines[flow] = _Line(self._virtual, deque([request]))
        self._enter(flow)
        return len(self._lines) > 1 and self._tag(flow) <= self._virtual

    def pop(self) -> T | None:
        """The next request in fair order."""
        while self._heap:
            tag, entry, flow = heapq.heappop(self._heap)
            line = self._lines.get(flow)
            if line is None or line.entry != entry:
                continue
            if self._tag(flow) <= tag:
                return self._aside(line)
            self._enter(flow)  # it was charged meanwhile, by a request of another flow
        return None

    def pop_oldest(self) -> T | None:
        """The next request in the order of arrival, for when all that wait are about to run."""
        for request in self._arrived:
            line = self._lines[request.ask.flow]
            if line.entry != ASIDE and line.waiting[0] is request:
                return self._aside(line)
        return None

    def waiting(self) -> list[T]:
        """All that wait, in the order of arrival."""
        return list(self._arrived)

    def _aside(self, line: _Line[T]) -> T:
        line.entry = ASIDE
        return line.waiting[0]

    def charge(self, request: T) -> None:
        """Takes a popped request out, and its work from the shares of all tasks it names."""
        ask = request.ask
        start = self._tag(ask.flow)
        self._virtual = max(self._virtual, start)
        for task, cost in zip(ask.tasks, ask.costs, strict=True):
            flow = task, ask.level, ask.caller
            used = max(start, self._finish.get(flow, 0.0))
            self._finish[flow] = used + cost / WEIGHTS[ask.level]
        self.drop(request)

    def correct(self, ask: Ask, work: float) -> None:
        """Corrects what a request was charged that has run since; negative work is taken off."""
        if self._lines:  # else nobody waits, and all begin equal
            each = work / len(ask.tasks) / WEIGHTS[ask.level]
            for task in ask.tasks:
                flow = task, ask.level, ask.caller
                self._finish[flow] = self._finish.get(flow, self._virtual) + each

    def drop(self, request: T) -> None:
        """Takes a popped request out."""
        flow = request.ask.flow
        del self._arrived[request]
        self._lines[flow].waiting.popleft()
        if self._lines[flow].waiting:
            self._enter(flow)
        else:
            del self._lines[flow]
            self._forget()

    def put_back(self, request: T) -> None:
        """A popped request stays where it is, first of its flow."""
        self._enter(request.ask.flow)

    def _enter(self, flow: Flow) -> None:
        line = self._lines[flow]
        line.entry = next(self._sequence)
        heapq.heappush(self._heap, (self._tag(flow), line.entry, flow))
        if len(self._heap) > MANY_ENTRIES + 2 * len(self._lines):
            valid = {line.entry for line in self._lines.values()}
            self._heap = [one for one in self._heap if one[1] in valid]
            heapq.heapify(self._heap)

    def _tag(self, flow: Flow) -> float:
        """The virtual time of its first request: that of the latest task that it names."""
        line = self._lines[flow]
        tag = max(line.since, self._finish.get(flow, 0.0))
        for task in line.waiting[0].ask.tasks[1:]:
            tag = max(tag, self._finish.get((task, *flow[1:]), 0.0))
        return tag

    def _forget(self) -> None:
        """Forgets flows that no longer count: all of them when nothing waits."""
        if not self._lines:
            self._finish.clear()
            self._heap.clear()
            self._virtual = 0.0
        elif len(self._finish) > MANY_FINISHED + 2 * len(self._lines):
            later = {flow: tag for flow, tag in self._finish.items() if tag > self._virtual}
            self._finish = later
