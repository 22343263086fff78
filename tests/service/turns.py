"""How long the turns of a real server's event loop take; see `watch/sitecustomize.py`."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.service.waiting import eventually

LONGEST_S = 0.05  # processor time of one turn, for all that clients send
WATCH = Path(__file__).parent / "watch"


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that took long."""

    at: float  # its end, a time of `time.monotonic`
    cpu_s: float  # of the loop's thread
    where: str  # what ran, if that was seen


class Turns:
    """The long turns of one server, which has to be started with `variables`.

    It is watched only when somebody wants to know: that costs it a tenth of a processor.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "turns"
        self.wanted = folder / "turns.wanted"  # while it is there, turns are watched
        self._since = time.monotonic()
        path = [str(WATCH), os.environ.get("PYTHONPATH", "")]
        self.variables = {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "LOOP_WATCH": str(self._file),
        }

    def begin(self) -> None:
        """Has the server watched from now on."""
        self._since = time.monotonic()
        self.wanted.touch()
        eventually(lambda: self._file.exists() and self._noted())

    def longest(self) -> Turn:
        """Since the beginning, which ends; wait for an answer first, so that a beat has noted what
        was.

        Raises FileNotFoundError if the server is not watched.
        """
        turns = self._noted()
        self.wanted.unlink(missing_ok=True)
        return max(turns, key=lambda one: one.cpu_s, default=Turn(self._since, 0.0, ""))

    def _noted(self) -> list[Turn]:
        lines = self._file.read_text().splitlines(keepends=True)
        turns = [Turn(**json.loads(line)) for line in lines if line.endswith("\n")]
        return [one for one in turns if one.at > self._since]
