"""Threads that decode images, shared fairly: the fair queue says which piece of work is next.

Each piece decodes one image of a request; between two pieces the request waits for its turn again.
So a request with many large images delays another one by one image at most, and stops after the
current image when nobody waits for it any more. A piece costs its flow the processor time it took.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.compute.fair_queue import Ask, FairQueue
from service.compute.tuning import FIRST_S, PIECES

Piece = Callable[[], bool]  # does a piece of a request's work, and says whether there is more


@dataclass(slots=True, eq=False)
class Turn:
    """A request's place among others."""

    ask: Ask  # costs: what its next piece is expected to take
    piece: Piece | None

    def cancel(self) -> None:
        """No piece begins from now on; lets go of what pieces would need."""
        self.piece = None


class Threads(Protocol):
    """Where requests' work is done, a piece at a time."""

    def submit(self, ask: Ask, piece: Piece, /) -> Turn:
        """Calls `piece` until it says that there is no more; it never raises."""
        ...


class Decoders:
    """A fixed number of threads; requests come from any thread."""

    def __init__(self, threads: int, *, clock: Callable[[], float] = time.thread_time) -> None:
        """`clock` measures what a piece costs, in the thread that does it."""
        self._clock = clock
        self._queue = FairQueue[Turn]()
        self._changed = threading.Condition()
        self._usual_s = FIRST_S
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"decode_{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, ask: Ask, piece: Piece) -> Turn:
        """As of Threads. Its flow is the request's: of its first task, its caller and its level."""
        turn = Turn(ask, piece)
        with self._changed:
            self._enter(turn)
            self._changed.notify()
        return turn

    @property
    def alive(self) -> bool:
        """Whether all threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def shutdown(self) -> None:
        """Ends the threads when all work is done; blocks."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _enter(self, turn: Turn) -> None:
        ask = turn.ask
        tasks = tuple(dict.fromkeys(ask.tasks))
        count = len(tasks)
        costs = [self._usual_s / count] * count
        turn.ask = Ask(tasks, costs, ask.deadline, ask.priority, ask.caller)
        self._queue.push(turn)

    def _work(self) -> None:
        while (turn := self._next()) is not None:
            more = True
            while more:
                piece, started = turn.piece, self._clock()
                more = piece is not None and piece()
                del piece
                turn, more = self._after(turn, self._clock() - started, more)
            del turn

    def _next(self) -> Turn | None:
        """Waits for one; None when there will be no more."""
        with self._changed:
            while (turn := self._taken()) is None and not self._stopping:
                self._changed.wait()
            return turn

    def _taken(self) -> Turn | None:
        while (turn := self._queue.pop()) is not None:
            if turn.piece is not None:
                self._queue.charge(turn)
                return turn
            self._queue.drop(turn)  # cancelled
        return None

    def _after(self, turn: Turn, seconds: float, more: bool) -> tuple[Turn, bool]:
        """Settles a piece; returns the next turn, if one is waiting."""
        with self._changed:
            self._queue.correct(turn.ask, seconds - turn.ask.work)
            self._usual_s += (seconds - self._usual_s) / PIECES
            if more:
                self._enter(turn)
            else:
                turn.piece = None
            following = self._taken()
        return (turn, False) if following is None else (following, True)
