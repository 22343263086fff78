"""The options of `munet evolve`."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DEFAULT_BUDGET_S = 600.0


class GrowthError(Exception):
    """Something that the user must change; the message says what."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The command with its defaults."""

    tasks: tuple[str, ...]
    store: str
    seconds: float | None = None  # wall time of the whole command, if given
    children: int | None = None  # of each task
    baseline: bool | None = None  # None: for a store's first task
    root: str | None = None
    seed: int | None = None

    @property
    def new_s(self) -> float | None:
        """Wall time for all tasks."""
        unlimited = self.seconds is not None or self.children is not None
        return self.seconds if unlimited else DEFAULT_BUDGET_S

    def command(self, left: int) -> str:
        """The command that continues the last `left` tasks."""
        tasks = map(shlex.quote, self.tasks[-left:])
        return " ".join(["munet evolve", *tasks, "--store", shlex.quote(self.store)])


def budget_of(text: str | None) -> float | None:
    """The seconds of a time such as 90s, 10m, 1.5h; None for None. Raises GrowthError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhd]?)", text.strip())
    seconds = float(found[1]) * UNITS[found[2] or "s"] if found else 0.0
    if not 1 <= seconds <= 1e9:
        raise GrowthError(
            f"--budget: expected a time of a second or more, as 90s, 10m or 2h, found {text[:40]!r}"
        )
    return seconds
