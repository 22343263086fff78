"""How long the turns of a real server's event loop take; see `watch/sitecustomize.py`."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

LONGEST_S = 0.05  # processor time of one turn, for all that clients send
WATCH = Path(__file__).parent / "watch"


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that took long."""

    at: float  # its end, a time of `time.monotonic`
    cpu_s: float  # of the loop's thread
    where: str  # what ran, if that was seen


class Turns:
    """The long turns of one server, which has to be started with `variables`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "turns"
        self.since = time.monotonic()
        path = [str(WATCH), os.environ.get("PYTHONPATH", "")]
        self.variables = {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "LOOP_WATCH": str(self._file),
        }

    def begin(self) -> None:
        """Forgets what was before, as the start of the server."""
        self.since = time.monotonic()

    def longest(self) -> Turn:
        """Since the beginning; wait for an answer first, so that a beat has noted what was.

        Raises FileNotFoundError if the server is not watched.
        """
        turns = [Turn(**json.loads(line)) for line in self._file.read_text().splitlines()]
        late = [one for one in turns if one.at > self.since]
        return max(late, key=lambda one: one.cpu_s, default=Turn(self.since, 0.0, ""))
