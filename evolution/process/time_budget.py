"""The wall time that a task iteration may take.

The law: the first child is always trained to its end. A further child starts only if it would fit
at the speed of the fastest child so far. A child in training when the time is over ends after the
present call of a compiled program. It is validated once more and judged as it is then. So there is
always a best path to publish.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Clock = Callable[[], float]  # seconds from any moment on


class Budget:
    """The rest of the budget, in the process that continues the iteration."""

    def __init__(
        self,
        seconds: float | None,
        former: Iterable[Mapping[str, Any]] = (),
        clock: Clock = time.monotonic,
        *,
        first_whole: bool = True,
    ) -> None:
        """`seconds` None means no limit; `former` are the rows of children trained earlier.

        The time between the processes of a run that was stopped does not count. Unless
        `first_whole`, the first child may be ended too.
        """
        taken = [row["seconds"] for row in former]
        self._clock, self._seconds = clock, seconds
        self._first_whole = first_whole
        self._children = len(taken)  # that are done
        self._quickest = min(taken, default=0.0)
        self._last = clock()  # when the last of them was done
        self._end = 0.0 if seconds is None else self._last + seconds - sum(taken)
        self._cut = False  # whether time ran out for a child, or for a further one

    def children_done(self, count: int) -> None:
        """Notes that the next children, those of a generation, are done."""
        now = self._clock()
        each = (now - self._last) / count
        self._quickest = min(self._quickest, each) if self._children else each
        self._children, self._last = self._children + count, now

    def allows_child(self) -> bool:
        """Whether another child may start; the first always may."""
        return not self._children or self._has_room(self._quickest)

    def allows_step(self) -> bool:
        """Whether the present child may train on."""
        return (self._first_whole and not self._children) or self._has_room(0.0)

    @property
    def remark(self) -> str | None:
        """How the budget ended, for people; None if it did not end anything."""
        if self._seconds is None:
            return None
        budget = f"the budget of {self._seconds:.0f} s"
        if self._children == 1 and self._first_whole and self._quickest > self._seconds:
            return (
                f"{budget} was too short: one child took {self._quickest:.0f} s, and was trained "
                "to its end"
            )
        return f"{budget} is used up" if self._cut else None

    def _has_room(self, seconds: float) -> bool:
        if self._seconds is None:
            return True
        fits = self._clock() + seconds <= self._end
        self._cut |= not fits
        return fits
