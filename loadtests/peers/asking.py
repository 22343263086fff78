"""Asks one server for the tasks of a set: each once, in a closed or an open loop, or next to one
that is added.
"""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from loadtests.errors import GatewayError
from loadtests.gateways import Server
from loadtests.peers.answers import failures
from loadtests.peers.client import Answer, Answers, Request, closed_loop, open_loop
from loadtests.peers.networks import Networks
from loadtests.peers.plan import OURS, Cell, Form
from loadtests.peers.servers import Kind
from loadtests.workload import Popularity, probabilities

WARM_UP = Cell("", "16 connections")
WARM_UP_S = 2.0
DRAWN = 20_000  # tasks, before their sequence starts again
ADDED_AFTER_S, SETTLES_S = 1.0, 0.5
RETRY_S = 0.005
ADDED_S = 30.0  # in which an added task has to answer


class Asker:
    """A server that runs, and requests for it."""

    def __init__(self, name: str, kind: Kind, home: Path, networks: Networks) -> None:
        """Starts it. Raises GatewayError; use `server` as a context."""
        self.name, self.kind, self._networks = name, kind, networks
        self.server = Server(kind.command, home, kind.ready, kind.directory, **kind.variables)
        ours = name.partition("@")[0] == OURS
        expected = networks.expected if ours else networks.whole
        self._expected = {form: dict(found) for form, found in expected.items()}

    def requests(self, tasks: Iterable[str], form: Form) -> Iterator[Request]:
        """For these tasks, each with the next picture."""
        files = self._networks.files[form]
        for task, picture in zip(tasks, itertools.cycle(range(len(files)))):
            yield Request(task, picture, self.kind.request(task, files[picture], form))

    def drawn(self, cell: Cell, turn: int) -> Iterator[str]:
        """Tasks as the cell's popularity has them; the same for every server in a round."""
        names = self._networks.tasks
        law = Popularity("zipf", cell.exponent) if cell.exponent else Popularity("uniform")
        shares = probabilities(law, len(names))
        drawn = np.random.default_rng(turn).choice(len(names), DRAWN, p=shares)
        ranks: list[int] = drawn.tolist()
        return (names[rank] for rank in itertools.cycle(ranks))

    def failures(self, answers: Sequence[Answer], form: Form) -> tuple[int, int]:
        """Requests that failed, and answers that are not the network's."""
        return failures(answers, self.kind.predictions, self._expected[form])

    def once(self, tasks: Sequence[str]) -> list[Answer]:
        """For each task once, one after the other."""
        return closed_loop(self.server.port, self.requests(tasks, "png"), 1, seconds=600).all

    def warm_up(self) -> Answers:
        """Some seconds of load."""
        return self.closed(WARM_UP, 0, WARM_UP_S)

    def closed(self, cell: Cell, turn: int, seconds: float) -> Answers:
        """A closed loop as the cell has it."""
        requests = self.requests(self.drawn(cell, turn), cell.form)
        with _no_collection():
            return closed_loop(
                self.server.port,
                requests,
                cell.connections,
                seconds=seconds,
                pause_s=cell.pause_s,
            )

    def open(self, cell: Cell, turn: int, seconds: float, rate: float) -> Answers:
        """Poisson arrivals, the same for every server in a round."""
        rng = np.random.default_rng(turn)
        due_s = np.cumsum(rng.exponential(1 / rate, max(1, int(rate * seconds)))).tolist()
        requests = self.requests(self.drawn(cell, turn), cell.form)
        with _no_collection():
            return open_loop(self.server.port, requests, due_s)

    def alongside(
        self, cell: Cell, turn: int, task: str, spare: str, add: Callable[[], None]
    ) -> tuple[list[Answer], Mapping[str, float]]:
        """Adds a task, which answers as the spare one, while others are asked for.

        Gives all answers and milliseconds: until the added task answered, the others' p99 before,
        and the longest of those that were under way meanwhile. Raises GatewayError.
        """
        self._expected["png"][task] = self._expected["png"][spare]
        found: list[Answers] = []
        over = threading.Event()
        requests = self.requests(self.drawn(cell, turn), cell.form)
        loop = threading.Thread(
            target=lambda: found.append(
                closed_loop(self.server.port, requests, cell.connections, stop=over.is_set)
            )
        )
        with _no_collection():
            loop.start()
            try:
                time.sleep(ADDED_AFTER_S)
                began = time.perf_counter()
                add()
                written = time.perf_counter()
                first = self._answer_of(task)
                answered = time.perf_counter()
                time.sleep(SETTLES_S)
            finally:
                over.set()
                loop.join()
        others = found[0].all
        quiet = [a.latency_s for a in others if a.ended < began]
        meanwhile = [a.latency_s for a in others if a.ended > began and a.due < answered]
        return [*others, first], {
            "answer_ms": (answered - written) * 1e3,
            "before_p99_ms": float(np.percentile(quiet, 99)) * 1e3,
            "longest_ms": max(meanwhile) * 1e3,
        }

    def _answer_of(self, task: str) -> Answer:
        """The first answer of a task that a server may not know yet."""
        end = time.perf_counter() + ADDED_S
        while True:
            answer = self.once([task])[0]
            if answer.status == 200:
                return answer
            if time.perf_counter() > end:
                raise GatewayError(
                    f"adding {task} to {self.name}: expected an answer within {ADDED_S:g} s, found "
                    f"{answer.status} {answer.body[:300]!r}"
                )
            time.sleep(RETRY_S)


@contextmanager
def _no_collection() -> Iterator[None]:
    """The client's own garbage is collected between loads."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
