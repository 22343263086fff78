"""What is measured: sets of tasks, cells of load on them, and which servers take part in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loadtests.errors import OptionError

OURS = "ours"
EMPTY = "empty"  # a BentoML service that does nothing, in the cells of memory and start
Form = Literal["png", "jpeg", "photo"]  # of the network's size; of 640x480; of 12 megapixels
PEERS = ("bare", "split-batch", "split-batch2", "bentoml", "triton", "litserve", "ray")
ZIPF = 1.1


@dataclass(frozen=True, slots=True)
class TaskSet:
    """Tasks over one backbone (Ti/16, 12 blocks)."""

    name: str
    title: str
    pixels: int
    shared: bool  # all but the last block and the head
    times: float  # as many tasks as the option --tasks says
    peers: Sequence[str]  # those that are asked, next to the gateway
    reduced: bool = False  # the gateway decodes large JPEG files at reduced size, its peers whole

    def tasks(self, asked: int) -> int:
        """How many there are."""
        return max(2, round(asked * self.times))


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load on one set of tasks."""

    tasks: str  # the name of a set
    title: str
    kind: Literal["closed", "open", "alone", "added"] = "closed"
    connections: int = 16
    exponent: float = 0.0  # of zipf's law; 0: every task as often
    pause_s: float = 0.0  # before a connection asks again
    form: Form = "png"


SETS = {
    made.name: made
    for made in (
        TaskSet("shared", "last block and head their own", 64, True, 1, PEERS),
        TaskSet("disjoint", "nothing shared", 64, False, 1, ("bare", "bentoml", "triton")),
        TaskSet(
            "large",
            "last block and head their own",
            224,
            True,
            0.2,
            ("bare", "split-batch2", "triton"),
        ),
        TaskSet("reduced", "large JPEG files at reduced size", 64, True, 0.2, ("bare",), True),
        TaskSet("many", "last block and head their own", 64, True, 10, ("split-batch2",)),
    )
}
CELLS = {
    "alone": Cell("shared", "start, first answers, memory", "alone"),
    "uniform": Cell("shared", "16 connections"),
    "zipf": Cell("shared", "16 connections, zipf 1.1", exponent=ZIPF),
    "busy": Cell("shared", "64 connections", connections=64),
    "one": Cell("shared", "one connection", connections=1),
    "pauses": Cell("shared", "one connection, pauses of 25 ms", connections=1, pause_s=0.025),
    "open": Cell("shared", "open loop at 60 % of the capacity", "open"),
    "jpeg": Cell("shared", "16 connections, JPEG of 640x480", form="jpeg"),
    "photo": Cell("shared", "4 connections, JPEG of 4000x3000", connections=4, form="photo"),
    "jpeg-reduced": Cell("reduced", "16 connections, JPEG of 640x480", form="jpeg"),
    "photo-reduced": Cell(
        "reduced", "4 connections, JPEG of 4000x3000", connections=4, form="photo"
    ),
    "added": Cell("shared", "a task is added next to 4 connections", "added", connections=4),
    "disjoint": Cell("disjoint", "16 connections"),
    "disjoint-one": Cell("disjoint", "one connection", connections=1),
    "large": Cell("large", "16 connections"),
    "large-one": Cell("large", "one connection", connections=1),
    "many-alone": Cell("many", "start, first answers, memory", "alone"),
    "many": Cell("many", "16 connections"),
}


@dataclass(frozen=True, slots=True)
class Setup:
    """What of it is wanted. Raises OptionError.

    A peer may be `ours@FOLDER` as well: the gateway of another checkout, on the same store. The
    gateway itself is always measured, and may be the only one: `ours`.
    """

    cells: Sequence[str]
    peers: Sequence[str]
    rounds: int = 3
    tasks: int = 100
    seconds: float = 5.0  # of each server, cell and round

    def __post_init__(self) -> None:
        """All names are known and all counts make sense."""
        _require_known("cells", self.cells, CELLS)
        named = [name for name in self.peers if not name.startswith(f"{OURS}@")]
        _require_known("peers", named, (OURS, *PEERS))
        if self.rounds < 1 or self.tasks < 2:
            raise OptionError(
                "checking options: expected 1 round or more and 2 tasks or more, found "
                f"{self.rounds} and {self.tasks}"
            )

    def servers(self, cell: str) -> list[str]:
        """Who takes part in a cell; the gateway first."""
        tasks = SETS[CELLS[cell].tasks]
        chosen = [p for p in self.peers if p in tasks.peers or p.startswith(f"{OURS}@")]
        return [OURS, *chosen, *([EMPTY] if CELLS[cell].kind == "alone" else [])]


def _require_known(what: str, found: Sequence[str], known: Sequence[str] | dict[str, Cell]) -> None:
    if unknown := [name for name in found if name not in known]:
        raise OptionError(
            f"checking {what}: expected some of {', '.join(known)}, separated by commas; "
            f"found {', '.join(unknown)}"
        )
