"""Throughput of more replicas than there are cores here, from the measured rates of one.

Each replica is a server that with k requests in flight answers as many per second as the measured
one did with k connections. Clients ask one request after the other; a request goes to its task's
replica by the rules of deploy/haproxy. The proxy and the network cost no time.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from loadtests.workload import Popularity, probabilities

REPLICAS = (1, 3, 4, 6, 8, 12)
CLIENTS = (16, 64)  # for each replica
POPULARITIES = ("uniform", "zipf:1.1")
BEFORE, ANSWERS = 500, 2000  # for each replica; the former do not count
SPREAD = 16  # requests of a task, and of all for each replica, before they spread


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of replicas under one load."""

    replicas: int
    clients: int  # for each replica
    popularity: str
    rate: float  # answers per second
    of_linear: float  # to that of one replica, times their number
    busiest: float  # share of the answers that came from the busiest replica, times their number
    away: float  # share of the requests that did not go to their task's replica


def cells(rates: Mapping[int, float], tasks: int) -> list[Cell]:
    """All combinations; `rates` are answers per second by requests in flight."""
    found: list[Cell] = []
    for popularity in POPULARITIES:
        for clients in CLIENTS:
            one = 0.0
            for replicas in REPLICAS:
                run = _Run(rates, replicas, tasks, popularity)
                rate, answers, away = run.measured(clients * replicas)
                one = one or rate
                busiest = max(answers) * replicas / sum(answers)
                linear = rate / (one * replicas)
                found.append(Cell(replicas, clients, popularity, rate, linear, busiest, away))
    return found


class _Run:
    """A closed loop of clients, from one answer to the next."""

    def __init__(
        self, rates: Mapping[int, float], replicas: int, tasks: int, popularity: str
    ) -> None:
        between = np.interp(range(1, max(rates) + 1), [*rates], [*rates.values()])
        self._rates = [0.0, *between.tolist()]
        self._replicas, self._random = replicas, random.Random(replicas)
        shares = probabilities(Popularity.parse(popularity), tasks)
        self._tasks = range(tasks)
        self._cumulative = np.cumsum(shares).tolist()
        self._orders: dict[int, list[int]] = {}
        self._in_flight: list[list[tuple[int, bool]]] = [[] for _ in range(replicas)]
        self._beyond = [0] * replicas  # of those in flight, the ones that were spread
        self._of_task = Counter[int]()
        self._total = 0

    def measured(self, clients: int) -> tuple[float, list[int], float]:
        """Answers per second; answers of each replica; share that was not at its own."""
        for _ in range(clients):
            self._send()
        for _ in range(BEFORE * self._replicas):
            self._answer()
            self._send()
        answers, seconds, away = [0] * self._replicas, 0.0, 0
        for _ in range(ANSWERS * self._replicas):
            replica, waited = self._answer()
            answers[replica] += 1
            seconds += waited
            away += self._send()
        return sum(answers) / seconds, answers, away / sum(answers)

    def _send(self) -> bool:
        """The next client's request; whether it goes to another replica than its task's."""
        (task,) = self._random.choices(self._tasks, cum_weights=self._cumulative)
        order = self._orders.get(task) or _order(task, self._replicas)
        self._orders[task] = order
        self._of_task[task] += 1
        self._total += 1
        spread = self._of_task[task] > SPREAD or self._total > SPREAD * self._replicas
        replica = order[0]
        if spread:
            most = -(-2 * (sum(self._beyond) + 1) // self._replicas)
            replica = next(one for one in order if self._beyond[one] < most)
            self._beyond[replica] += 1
        self._in_flight[replica].append((task, spread))
        return replica != order[0]

    def _answer(self) -> tuple[int, float]:
        """Which replica answers next, and how long that takes; in no order of its requests."""
        speeds = [self._rates[min(len(one), len(self._rates) - 1)] for one in self._in_flight]
        (replica,) = self._random.choices(range(self._replicas), speeds)
        waiting = self._in_flight[replica]
        place = self._random.randrange(len(waiting))
        waiting[place], waiting[-1] = waiting[-1], waiting[place]
        task, spread = waiting.pop()
        self._of_task[task] -= 1
        self._total -= 1
        self._beyond[replica] -= spread
        return replica, self._random.expovariate(sum(speeds))


def _order(task: int, replicas: int) -> list[int]:
    """The replicas by how much the task's hash prefers them."""
    hashes = [hashlib.sha256(f"{task} {number}".encode()).digest() for number in range(replicas)]
    return sorted(range(replicas), key=hashes.__getitem__)
