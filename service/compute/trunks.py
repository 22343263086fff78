"""What several loaded paths share, each run of stages as one program with its weights inside.

A compiler that knows the weights lays them out once instead of at each run, and joins operations.
But such a program is of these components alone, and holds another copy of their weights. So there
is one only for a run of stages that at least two paths take together before they part. It is made
in the background, if memory is left, and goes with the first of its components. Its answers differ
from those of other programs by rounding, as those of buckets do.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from service.compute.backends import Known
from service.compute.paths import Stage, Walk
from service.compute.plan import Key, Node, together

MOST = 2  # trunks that begin with the same stage: the newest


class Trunk:
    """A run of stages, which it does not keep in memory, and its program."""

    def __init__(self, stages: Sequence[Stage], rows: int) -> None:
        """`rows` is the most that its program takes in one call."""
        self.rows = rows
        self.run: Known | None = None  # while there is none, and after a stage has gone
        self.refused = False  # for want of memory: it is asked for again with the next load
        self.chain = tuple(stage.program for stage in stages)
        gone = partial(_without_run, weakref.ref(self))
        self._stages = tuple(weakref.ref(stage, gone) for stage in stages)

    def take(self, run: Known) -> None:
        """Its program is ready."""
        self.run = run
        if any(stage() is None for stage in self._stages):
            self.run = None

    def is_of(self, stages: Sequence[Stage]) -> bool:
        """Whether it is a run of these, all of which there still are."""
        return len(stages) == len(self._stages) and all(
            found() is stage for found, stage in zip(self._stages, stages, strict=True)
        )

    def parts(self, rows: int) -> list[int]:
        """Rows of each call, as equal as can be: fewer calls, and no padding."""
        calls = -(-rows // self.rows)
        return [rows // calls + (call < rows % calls) for call in range(calls)]


def _without_run(trunk: weakref.ref[Trunk], _: object) -> None:
    """Frees the program: one of its stages has gone."""
    found = trunk()
    if found is not None:
        found.run = None


Make = Callable[[Trunk, Sequence[Stage]], None]  # gives it its program, later; keeps no stage


class Trunks:
    """The trunks of all loaded paths; for any thread."""

    def __init__(self, rows_of: Callable[[Sequence[Stage]], int], make: Make) -> None:
        """`rows_of` says how many rows one call of such a run should take at most."""
        self._rows_of, self._make = rows_of, make
        self._lock = threading.RLock()
        self._next: weakref.WeakKeyDictionary[Stage, weakref.WeakSet[Stage]] = (
            weakref.WeakKeyDictionary()
        )
        self._by_first: weakref.WeakKeyDictionary[Stage, tuple[Trunk, ...]] = (
            weakref.WeakKeyDictionary()
        )

    def note(self, walk: Walk) -> None:
        """A path that takes this walk is loaded."""
        with self._lock:
            for stage, following in itertools.pairwise(walk.stages):
                self._next.setdefault(stage, weakref.WeakSet()).add(following)
            for stages in list(self._shared(walk)):
                self._add(stages)

    def _shared(self, walk: Walk) -> Iterator[Sequence[Stage]]:
        """Runs of several stages that end where paths part."""
        begin = 0
        for end, stage in enumerate(walk.stages, 1):
            if len(self._next.get(stage, ())) > 1:
                if end - begin > 1:
                    yield walk.stages[begin:end]
                begin = end

    def _add(self, stages: Sequence[Stage]) -> None:
        found = self._by_first.get(stages[0], ())
        known = [one for one in found if not one.refused]
        if not any(one.is_of(stages) for one in known):
            trunk = Trunk(stages, self._rows_of(stages))
            self._by_first[stages[0]] = (trunk, *known[: MOST - 1])
            self._make(trunk, stages)

    def find(
        self, group: Sequence[Node], missing: Counter[Key]
    ) -> tuple[Trunk, Known, list[Sequence[Node]]] | None:
        """The longest trunk that all rows of a group take, and their nodes at each of its stages.

        None where there is none, or not yet.
        """
        found = None
        for trunk in self._by_first.get(group[0].stage, ()):
            run = trunk.run
            if run is not None and (found is None or len(found[2]) < len(trunk.chain)):
                levels = together(group, trunk.chain, missing)
                if levels and trunk.is_of([level[0].stage for level in levels]):
                    found = trunk, run, levels
        return found
