"""Many agents on one store, as a discrete-event model.

Each agent has its own machine and shares only the store. The store serves all calls at once up to
its capacity. Above it all calls slow down equally. It makes one write to a file at a time. A
compare-and-swap waits for those before it. If one of them came between its read and its write, it
is refused and tried again.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from evolution.agents.publication_index import PARTS


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a call: the caller's seconds if it is the only call, and the store's work.

    `work` is the time that the call keeps the store busy: one over the calls per second that the
    store serves to many callers.
    """

    seconds: float
    work: float

    @property
    def share(self) -> float:
        """The share of the store's capacity that the call takes while it is the only one."""
        return min(self.work / self.seconds, 1.0) if self.seconds else 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.work + other.work)

    def __mul__(self, factor: float) -> Cost:
        return Cost(self.seconds * factor, self.work * factor)


@dataclass(frozen=True, slots=True)
class Costs:
    """The calls an agent makes."""

    look: Cost  # finds that the index of publications and an empty store's tasks are as before
    per_task: Cost  # in addition, for each task in the store
    part: Cost  # reads a part of the index
    per_row: Cost  # in addition, for each publication in the part
    new: Cost  # reads a publication that the index lacks
    add: Cost  # stores a part and the index
    per_added: Cost  # in addition, for each publication in the part
    fetch: Cost  # reads the components that only one path has
    load: Cost  # reads shared components, which were read before
    put: Cost  # stores a kept child's trained components and momenta, and a state with it
    save: Cost  # saves a state that refers to the root and the parts of the index
    per_path: Cost  # in addition, for each path of the state
    publish: Cost  # a version's blobs and its number
    read: Cost  # of a small file
    replace: Cost  # of a small file, by compare-and-swap
    renewals: float = 0.0  # of an agent's lease, per second: a read and a replace each


@dataclass(frozen=True, slots=True)
class Work:
    """The work of an agent's cycle, as in measured runs."""

    child_seconds: Sequence[float]  # a child's training; drawn from
    foreign: float  # share of children whose parent is another agent's
    kept: float  # share of children that improve on their parents
    published: float  # share of cycles with a new best path
    generations: int  # of a cycle
    children: int  # of a generation


@dataclass(slots=True)
class Result:
    """The result of a simulation."""

    agents: int
    children: int = 0
    seconds: float = 0.0
    ideal_rate: float = 0.0  # children per second if the store took no time
    in_store_s: float = 0.0  # over all agents
    busy_s: float = 0.0  # of the store, at full capacity
    publications: int = 0
    conflicts: int = 0  # compare-and-swaps that were tried again
    looks: list[float] = field(default_factory=list)  # seconds from a cycle's start to its state
    calls: Counter[str] = field(default_factory=Counter)  # by kind

    @property
    def rate(self) -> float:
        """Children per second."""
        return self.children / self.seconds

    @property
    def store_share(self) -> float:
        """The share of the agents' time in calls to the store. The rest is computing."""
        return self.in_store_s / (self.agents * self.seconds)

    @property
    def load(self) -> float:
        """The used share of the store's capacity."""
        return self.busy_s / self.seconds

    @property
    def retries(self) -> float:
        """Conflicts for each publication."""
        return self.conflicts / max(self.publications, 1)


# How often an agent saves its state at the end of a cycle; it also does so once at the start.
SAVES = 2

_Step = Cost | float | str  # a call, seconds of computing, or a file to write alone
_Agent = Generator[_Step, None, None]


def simulate(
    agents: int, costs: Costs, work: Work, cycles: float = 10.0, per_task: int = 3, seed: int = 0
) -> Result:
    """Simulates agents for the time that `cycles` cycles take without a store.

    `per_task` agents share a task. At the start each has published once and knows all publications.
    They are at random points of a cycle, so that not all call the store at once.
    """
    return _Simulation(agents, costs, work, per_task, seed).run(cycles)


class _Simulation:
    """The clock, the store's capacity, and the agents."""

    def __init__(self, agents: int, costs: Costs, work: Work, per_task: int, seed: int) -> None:
        self._costs, self._work, self._per_task = costs, work, per_task
        self._rng = np.random.default_rng([seed, agents])
        self._times = np.asarray(work.child_seconds)
        self._result = Result(agents, ideal_rate=agents / float(self._times.mean()))
        renewals = (costs.read + costs.replace) * (costs.renewals * agents)
        self._capacity = max(1.0 - renewals.work, 1e-9)
        self._now = self._served = 0.0  # seconds; seconds of service to a call without others
        self._demand = 0.0  # of all present calls, in capacities of the store
        self._order = count()
        self._computing: list[tuple[float, int, _Agent]] = []
        self._calling: list[tuple[float, int, _Agent, Cost]] = []  # by service time, not by clock
        self._waiting: dict[str, deque[_Agent]] = {}  # file being written -> agents that wait
        self._versions = self._indexed = agents  # publications: in the store, in the index
        self._parts = min(PARTS, -(-agents // per_task))  # of the index
        self._writes: dict[str, int] = defaultdict(int)  # file -> number of writes

    def run(self, cycles: float) -> Result:
        generations = self._work.generations
        child_s = float(self._times.mean())
        end = cycles * generations * self._work.children * child_s
        for number in range(self._result.agents):
            first = int(self._rng.integers(generations)) + 1
            self._compute(self._rng.uniform(0, child_s), self._agent(number, first))
        while self._now < end:
            self._next(end)
        self._result.seconds = end
        return self._result

    # ---- one agent

    def _agent(self, number: int, generations: int) -> _Agent:
        """All cycles of an agent; the first has fewer generations."""
        result = self._result
        live = f"live {number // self._per_task}"
        seen = self._versions
        while True:
            paths = 1
            for _ in range(generations):
                paths = yield from self._generation(paths)
            if self._rng.random() < self._work.published:
                yield from self._swap("changes")  # all agents announce changes in one file
                yield self._call(publish=1)
                self._versions += 1
                yield from self._swap(live)
                yield self._call(read=2)  # what is live, and the number of the own version
                result.publications += 1
            yield self._call(save=SAVES, per_path=paths + SAVES - 1)  # one is left
            started = self._now
            yield self._call(read=1, part=1)  # its own state
            seen = yield from self._look(seen)
            yield self._call(save=1, per_path=1, read=1)  # the index, as it is by then
            result.looks.append(self._now - started)
            generations = self._work.generations

    def _look(self, seen: int) -> Generator[_Step, None, int]:
        """How many publications an agent knows that has looked; it knew `seen`."""
        tasks, rows = -(-self._result.agents // self._per_task), self._result.agents / self._parts
        index, indexed, there = self._writes["index"], self._indexed, self._versions
        yield self._call(look=1, per_task=tasks)
        changed = self._changed(indexed - seen)
        # The index itself is read like a part of it.
        yield self._call(part=changed + (indexed > seen), per_row=changed * rows)
        new = there - max(indexed, seen)
        if new > 0:
            added = self._changed(new)
            # A publication is a path, and the momenta in its publisher's state.
            yield self._call(read=2 * new, new=2 * new, add=added, per_added=added * rows)
            if self._writes["index"] == index:
                self._writes["index"] += 1
                self._indexed = there
            else:  # another agent was quicker; a later one adds the rest
                self._result.conflicts += 1
        return max(indexed, there, seen)

    def _changed(self, publications: int) -> float:
        """How many parts of the index these publications are in."""
        return self._parts * (1 - (1 - 1 / self._parts) ** max(publications, 0))

    def _generation(self, paths: int) -> Generator[_Step, None, int]:
        """One generation of an agent with `paths` paths; the number of its paths afterwards."""
        work, children = self._work, self._work.children
        foreign, kept = self._rng.binomial(children, (work.foreign, work.kept)).tolist()
        yield self._call(fetch=foreign, load=children)
        for seconds in self._rng.choice(self._times, children):
            yield float(seconds)
            self._result.children += 1
        # A kept child is read again, as a parent.
        yield self._call(put=kept, fetch=kept, save=not kept, per_path=paths + kept)
        return paths + kept

    def _call(self, **calls: float) -> Cost:
        """The cost of this many calls of each kind, one after the other."""
        self._result.calls.update(calls)
        costs = (getattr(self._costs, kind) * number for kind, number in calls.items())
        return sum(costs, start=Cost(0.0, 0.0))

    def _swap(self, file: str) -> Iterator[_Step]:
        while True:
            yield self._call(read=1)
            read = self._writes[file]
            yield file
            if done := self._writes[file] == read:
                yield self._call(replace=1)
                self._writes[file] += 1
            self._release(file)
            if done:
                return
            self._result.conflicts += 1
            yield self._call(read=1)  # the refusal

    # ---- the clock

    def _next(self, end: float) -> None:
        """Goes to the next event, and continues its agent."""
        speed = min(1.0, self._capacity / self._demand) if self._demand else 1.0
        computed = self._computing[0][0] if self._computing else np.inf
        answered = np.inf
        if self._calling:
            answered = self._now + (self._calling[0][0] - self._served) / speed
        self._pass(min(computed, answered, end), speed)
        if self._now >= end:
            return
        if computed <= answered:
            _, _, agent = heapq.heappop(self._computing)
        else:
            _, _, agent, cost = heapq.heappop(self._calling)
            self._demand -= cost.share
            if not self._calling:
                self._demand = 0.0  # removes rounding errors
        self._go_on(agent)

    def _pass(self, moment: float, speed: float) -> None:
        seconds = moment - self._now
        self._served += seconds * speed
        queued = sum(map(len, self._waiting.values()))
        self._result.in_store_s += seconds * (len(self._calling) + queued)
        self._result.busy_s += seconds * min(1.0, self._demand / self._capacity)
        self._now = moment

    def _go_on(self, agent: _Agent) -> None:
        step = next(agent)
        if isinstance(step, Cost):
            self._demand += step.share
            entry = (self._served + step.seconds, next(self._order), agent, step)
            heapq.heappush(self._calling, entry)
        elif not isinstance(step, str):
            self._compute(step, agent)
        elif step in self._waiting:
            self._waiting[step].append(agent)
        else:
            self._waiting[step] = deque()
            self._compute(0.0, agent)

    def _release(self, file: str) -> None:
        """Passes the file to the next agent."""
        if self._waiting[file]:
            self._compute(0.0, self._waiting[file].popleft())
        else:
            del self._waiting[file]

    def _compute(self, seconds: float, agent: _Agent) -> None:
        heapq.heappush(self._computing, (self._now + seconds, next(self._order), agent))
