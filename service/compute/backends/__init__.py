"""What runs compiled programs: the seam between the engine's walk and a framework.

A back end holds weights as arguments of its programs, never inside them, so that the number of
programs depends neither on tasks nor on depth and a component's arrays are in memory once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from service.compute.paths import Program

Chain = tuple[Program, ...]  # stages that one program runs, one after the other; mostly one

# (weights, rows) -> results. Weights are the chain's, or in a stacked program each row's: for each
# component in order what `place` gave. Rows and results are arrays [rows, ...], of NumPy or of the
# back end, which takes its own results as rows without a copy.
Run = Callable[[Sequence[Sequence[Any]], Any], Any]


def always() -> bool:
    """The default of `spare`: memory is always left."""
    return True


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program that is ready to run, from any thread."""

    run: Run
    cached: bool  # it came from the cache on disk


class Backend(Protocol):
    """One framework on one device; safe to call from several threads."""

    name: str
    device: str
    streams: int  # runs at the same time that are of use
    inline: bool  # programs run in the thread that calls, whose time is all that they cost
    call_tokens: int  # of all rows of a call at most: more would take memory and save nothing
    fuses: bool  # whether programs of several stages pay, and answer the same bit for bit

    def place(self, kind: str, tree: Any) -> Any:
        """A component's arrays as programs take them; `tree` holds NumPy float32 of its own."""
        ...

    def compile(
        self, chain: Chain, rows: int, *, stacked: bool, spare: Callable[[], bool] = always
    ) -> Compiled:
        """The program for `rows` rows, with weights for all of them or, stacked, for each.

        Its caller has made room for it; `spare` says whether memory is left for one more of it,
        which some back ends make later. Without it, always.
        """
        ...

    def close(self) -> None:
        """Lets go of what the process holds for it."""
        ...
