"""What decides who goes on and what happens: chance, or a script that was written down before.

A decision is named by its place: process, operation, and how many decisions of that operation came
before it. So a script can lose an operation, and still mean the same for all others.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# A thread, or a process, and how often in a row it goes on.
Turns = Sequence[tuple[str, int]]
Events = Mapping[str, tuple[str, float]]  # place -> what happens, and how much of it, from 0 to 1


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely things are, each time that they may happen."""

    kill: float = 0.0
    interrupt: float = 0.0
    stop: float = 0.0  # for some time, as by SIGSTOP
    fail: float = 0.0  # a system call, or a request before it takes effect
    lose: float = 0.0  # the reply of a request that took effect
    late: float = 0.0  # a request that is not answered takes effect later
    lie: float = 0.0  # a size is read as 0, or a document is not seen
    lie_to: str = ""  # by this process alone
    slow: float = 0.2  # a request takes up to a second
    leave: float = 0.0  # a change is late, and who waits for it is interrupted
    doze: float = 0.0  # a process sleeps just before it reads what others write


class Chance:
    """Decides by chance, and remembers what it decided."""

    def __init__(self, seed: int, weather: Weather, sticky: float) -> None:
        """With `sticky` likelihood, the one that went on goes on."""
        self._random = random.Random(seed)
        self._lie_to = weather.lie_to
        self._sticky = sticky
        self._last = ""
        self.turns: list[tuple[str, int]] = []
        self.events: dict[str, tuple[str, float]] = {}
        self._chances: dict[str, list[tuple[str, float]]] = {}
        for place, kinds in KINDS.items():
            total, chances = 0.0, []
            for kind in kinds:
                total += getattr(weather, kind)
                chances.append((kind, total))
            self._chances[place] = [c for c in chances if total]

    def turn(self, ready: list[str]) -> int:
        """Which of these goes on."""
        draw = self._random.random
        if self._last in ready and draw() < self._sticky:
            chosen = ready.index(self._last)
        else:
            chosen = int(draw() * len(ready))
            self._last = ready[chosen]
        if self.turns and self.turns[-1][0] == self._last:
            self.turns[-1] = self._last, self.turns[-1][1] + 1
        else:
            self.turns.append((self._last, 1))
        return chosen

    def event(self, place: str, number: tuple[str, int, int]) -> tuple[str, float] | None:
        """What happens here; None for nothing."""
        chances = self._chances[place]
        if not chances or (place == "size" and self._lie_to not in ("", number[0])):
            return None
        drawn = self._random.random()
        if drawn >= chances[-1][1]:
            return None
        kind = next(kind for kind, total in chances if drawn < total)
        event = kind, round(self._random.random(), 2)
        self.events[name_of(number)] = event
        return event


class Script:
    """Decides what was written down; where that is at its end, the first that can goes on."""

    def __init__(self, turns: Turns, events: Events) -> None:
        self._turns = [[name, count] for name, count in reversed(turns)]
        self.turns = list(turns)
        self.events = dict(events)

    def turn(self, ready: list[str]) -> int:
        """Which of these goes on."""
        while self._turns:
            name, count = self._turns[-1]
            if count:
                self._turns[-1][1] -= 1
                if name in ready:
                    return ready.index(name)
                for index, thread in enumerate(ready):
                    if thread.startswith(f"{name}/"):
                        return index
            self._turns.pop()
        return 0

    def event(self, place: str, number: tuple[str, int, int]) -> tuple[str, float] | None:
        """What happens here; None for nothing."""
        name = name_of(number)
        event = self.events.get(name)
        if event is None or event[0] not in KINDS[place]:
            return None
        return event


Fate = Chance | Script

# Where something may happen, and what: before a step of a process, in a request, in a change on a
# disk, and in a look at a size. A look is at what others write: the file of a gc, or a document.
KINDS = {
    "step": ("kill", "interrupt", "stop"),
    "step to look": ("kill", "interrupt", "stop", "doze"),
    "request": ("fail", "slow"),
    "look": ("fail", "slow", "doze"),
    "change": ("fail", "late", "lose", "slow", "leave"),
    "call": ("fail",),
    "size": ("lie",),
}


def name_of(number: tuple[str, int, int]) -> str:
    """The name of a decision."""
    return f"{number[0]}.{number[1]}.{number[2]}"
