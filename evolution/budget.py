"""The wall time that a task iteration may take.

The law: its first child is trained to its end, however short the budget. Of the others none begins
that would not fit if it took as long as the quickest so far, and one that is being trained when the
time is over ends at the next boundary between calls of a compiled program, is validated once more,
and counts as what it is then. So the best so far is always there to be published.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Clock = Callable[[], float]  # seconds from any moment on


class Budget:
    """What is left of it, in the process that goes on with the iteration."""

    def __init__(
        self,
        seconds: float | None,
        former: Iterable[Mapping[str, Any]] = (),
        clock: Clock = time.monotonic,
        *,
        first_whole: bool = True,
    ) -> None:
        """`seconds` None is no limit; `former` are the rows of children that were trained before.

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
        self._cut = False  # whether a child was ended, or none begun, for want of time

    def children_done(self, count: int) -> None:
        """Notes that the children of a generation are done, which began after those before."""
        now = self._clock()
        each = (now - self._last) / count
        self._quickest = min(self._quickest, each) if self._children else each
        self._children, self._last = self._children + count, now

    def allows_child(self) -> bool:
        """Whether another child may begin; one may in any case."""
        return not self._children or self._has_room(self._quickest)

    def allows_step(self) -> bool:
        """Whether the training of the child under way may go on."""
        return (self._first_whole and not self._children) or self._has_room(0.0)

    @property
    def remark(self) -> str | None:
        """What came of it, for people; None if nothing did."""
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
