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
    ) -> None:
        """`seconds` None is no limit; `former` are the rows of children that were trained before.

        The time between the processes of a run that was stopped does not count.
        """
        self._clock, self._seconds = clock, seconds or 0.0
        taken = [row["seconds"] for row in former]
        self._quickest = min(taken, default=0.0)
        self.children = len(taken)  # that are done
        self._end = None if seconds is None else clock() + seconds - sum(taken)
        self.cut = False  # whether a child was ended, or none begun, for want of time

    def child_done(self, seconds: float) -> None:
        """Notes what a child took."""
        self._quickest = min(self._quickest, seconds) if self.children else seconds
        self.children += 1

    def allows_child(self) -> bool:
        """Whether another child may begin."""
        return self._within(self._quickest)

    def allows_step(self) -> bool:
        """Whether the training of the child under way may go on."""
        return self._within(0.0)

    @property
    def missed(self) -> float:
        """Seconds by which it was exceeded; 0 if it was kept."""
        return 0.0 if self._end is None else max(0.0, self._clock() - self._end)

    @property
    def remark(self) -> str | None:
        """What came of it, for people; None if nothing did."""
        if self.children == 1 and self.missed:
            return (
                f"the budget of {self._seconds:.0f} s was too short: one child took "
                f"{self._quickest:.0f} s, and was trained to its end"
            )
        return f"the budget of {self._seconds:.0f} s is used up" if self.cut else None

    def _within(self, needed: float) -> bool:
        if self._end is None or not self.children:
            return True
        fits = self._clock() + needed <= self._end
        self.cut |= not fits
        return fits
