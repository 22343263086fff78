"""One forward for rows of many tasks: rows are grouped by stage, equal prefixes computed once.

Programs take weights as arguments. So their number depends on the kinds of stages and buckets, and
neither on the number of tasks nor on depth. If all rows of a group go on together, a fused program
runs several stages in one call. Rows that are alone in stages of one kind run side by side, four in
a call. Small stages that belong to one task each, such as adapters and heads, run in one call for
all tasks that wait at the same depth. A multipath row takes a walk for each sub-path, which joins
other rows like any walk; the sub-paths' answers are mixed at the end.

A row's result does not depend on its batch mates: bit for bit within a bucket, and to rounding
(about 1e-6 where logits are about 1) between buckets, whose programs add in another order.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute import probe, router
from service.compute.backends.choice import choose
from service.compute.paths import (
    Component,
    LoadedPath,
    Program,
    Row,
    Shapes,
    Stage,
    padded_classes,
)
from service.compute.plan import Fork, Key, Node, Waiting, fork, gather, next_key, plan, together
from service.compute.programs import SIDE_BY_SIDE, Programs, split, tokens_of
from service.errors import Told
from service.metrics.instruments import Metrics
from vit import Architecture, shapes

SMALLEST = Architecture(
    width=1, heads=1, mlp_dim=1, patch_size=1, image_size=1, num_layers=0, num_classes=1
)


@dataclass(frozen=True, slots=True)
class DeviceArrays:
    """A component's arrays where the programs need them."""

    shapes: Shapes
    arrays: Any  # the back end's


class WrongArrays(Told, ValueError):
    """A component's arrays are not those that its place in a path needs."""


class Engine:
    """Compiled programs, and the walks of batches through them: one batch on each stream."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_rows: int,
        compilation_cache: str | None,
        backend: str = "auto",
        threads: int = 1,
    ) -> None:
        """Programs are compiled for 1, 2, 4 ... `max_rows` rows, and kept in the cache's folder.

        With OpenVINO each of `threads` is a stream, which computes batches of its own; JAX has one
        stream, on all cores. Raises SettingsError if there is no such back end.
        """
        self._backend = choose(backend, compilation_cache, threads)
        self._metrics = metrics
        self.programs = Programs(self._backend, metrics, max_rows)
        self.streams = self._backend.streams
        # Of a thread that runs batches: what they cost; None where another thread computes.
        self.cost_clock = time.thread_time if self._backend.inline else None
        self._next, self._running = threading.Lock(), threading.Semaphore(self.streams)
        metrics.describe(backend=self._backend.name, device=self._backend.device)

    def close(self) -> None:
        """Ends the compiling threads."""
        self.programs.close()
        self._backend.close()

    def place(self, kind: str, tree: Any) -> DeviceArrays:
        """A component's arrays on the device: float32, and heads padded with classes of zeros.

        They are copied, so that the memory of the file's bytes is free at once. Raises
        WrongArrays if they are not those of a component of this kind.
        """
        found, known = _ranks(_flat(tree)), _ranks_of(kind)
        if found not in known:
            expected = " or ".join(map(str, known))
            raise WrongArrays(f"placing {kind}: expected arrays of ranks {expected}, found {found}")
        arrays = _copied(tree)
        if kind == "head":
            classes = arrays["bias"].shape[0]
            missing = padded_classes(classes) - classes
            arrays = {
                "kernel": np.pad(arrays["kernel"], ((0, 0), (0, missing))),
                "bias": np.pad(arrays["bias"], (0, missing)),
            }
        placed = arrays if kind in router.KINDS else self._backend.place(kind, arrays)
        return DeviceArrays(_interned(_flat(arrays)), placed)

    def warm(self, path: LoadedPath) -> None:
        """Compiles the missing programs for one row; blocks. Those for more rows follow.

        Raises WrongArrays if a component's arrays do not have the shapes that are needed.
        """
        if path.mixer is not None:
            _check("router and connectors", path.mixer.shapes, path.mixer.components)
        stages = dict.fromkeys(stage for walk in path.walks for stage in walk.stages)
        for stage in stages:
            _check("+".join(stage.program.kinds), _shapes(stage.program), stage.components)
        for walk in path.walks:
            self.programs.make(tuple(stage.program for stage in walk.stages))

    def join(self, path: LoadedPath, shadow: LoadedPath) -> None:
        """Makes programs for what a version shares with its shadow, and for what follows, in the
        background: one program for the whole of it would leave nothing to share.
        """
        for one, other in zip(path.walks, shadow.walks, strict=False):
            same = itertools.takewhile(
                lambda pair: pair[0] is pair[1], zip(one.stages, other.stages, strict=False)
            )
            shared = len(list(same))
            for walk in (one, other):
                chain = tuple(stage.program for stage in walk.stages)
                self.programs.fuse(chain[:shared], chain[shared:])

    def probe(self, path: LoadedPath) -> None:
        """Runs one image through a warmed path, between two batches of a stream; blocks.

        A path is served only after finite numbers for that image: else raises NotFinite.
        """
        with self._turn():
            (logits,), *_ = self._answers([probe.row(path)])
        probe.require_finite(path, logits)

    def run(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Logits [classes] of each row. The paths must have been warmed."""
        return self.begin(rows, ())[0]

    def begin(
        self, rows: Sequence[Row], later: Sequence[Row]
    ) -> tuple[list[NDArray[np.float32]], Fork | None]:
        """`run`, and what is left to compute for further rows, which share prefixes with these."""
        with self._turn():
            answers, shared, fork = self._answers(rows, later)
        self._metrics.shared_rows.inc(shared)
        return answers, fork

    def finish(
        self, fork: Fork, later: Sequence[Row], go_on: Callable[[], bool]
    ) -> list[NDArray[np.float32]] | None:
        """Logits of the further rows; None if `go_on`, asked before each step, wants no more."""
        with self._turn():
            if not self._compute(fork.waiting(), fork.missing, go_on):
                return None
        rest = iter(fork.leaves)
        return [_logits(row.path, rest) for row in later]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """A stream for one batch. Threads get one in the order in which they began to wait."""
        with self._next:
            self._running.acquire()
        try:
            yield
        finally:
            self._running.release()

    def _answers(
        self, rows: Sequence[Row], later: Sequence[Row] = ()
    ) -> tuple[list[NDArray[np.float32]], int, Fork | None]:
        """Logits of each row, how many runs of a stage were shared, and what is left for others."""
        walks = [(walk, row.images[walk.target]) for row in rows for walk in row.path.walks]
        waiting, leaves, missing, roots = plan(walks)
        computed, rest = missing.total(), None
        if later:
            rest = fork(
                roots, [(walk, row.images[walk.target]) for row in later for walk in row.path.walks]
            )
        self._compute(waiting, missing, None)
        found = iter(leaves)
        shared = sum(len(walk.stages) for walk, _ in walks) - computed
        return [_logits(row.path, found) for row in rows], shared, rest

    def _compute(
        self, waiting: Waiting, missing: Counter[Key], go_on: Callable[[], bool] | None
    ) -> bool:
        """Runs group after group, but those that wait for later; whether to the end."""
        while waiting:
            if go_on is not None and not go_on():
                return False
            key = next_key(waiting, missing)
            if alike := self._side_by_side(key, waiting, missing):
                group = self._run_side_by_side([waiting.pop(one)[0] for one in alike], missing)
            else:
                group = self._run_group(waiting.pop(key), missing)
            for node in group:
                for child in node.children.values():
                    if child.key is not None:
                        waiting.setdefault(child.key, []).append(child)
        return True

    def _run_group(self, group: Sequence[Node], missing: Counter[Key]) -> Sequence[Node]:
        """Computes a group and those that a fused program includes; returns the last group."""
        program = group[0].stage.program
        parts = split(self.programs.ready(program), tokens_of(program), len(group))
        levels = self._levels(group, parts, missing)
        for level in levels:
            missing[level[0].key] -= len(level)
        start = 0
        for bucket in parts:
            self._run_bucket(bucket, [level[start : start + bucket] for level in levels])
            start += bucket
        self._metrics.padded_rows.inc((start - len(group)) * len(levels))
        return levels[-1]

    def _side_by_side(self, key: Key, waiting: Waiting, missing: Counter[Key]) -> list[Key]:
        """Groups of one row each, with this one, that a program side by side may run; or none."""

        def alone(one: Key) -> bool:
            return len(waiting[one]) == missing[one] == 1

        program = waiting[key][0].stage.program
        if not (alone(key) and self.programs.side_by_side(program)):
            return []
        alike = (one for one in waiting if alone(one) and waiting[one][0].stage.program is program)
        found = list(itertools.islice(alike, SIDE_BY_SIDE))
        return found if len(found) == SIDE_BY_SIDE else []

    def _run_side_by_side(self, group: Sequence[Node], missing: Counter[Key]) -> Sequence[Node]:
        for node in group:
            missing[node.key] -= 1
        self._run_bucket(len(group), [group])
        return group

    def _levels(
        self, group: Sequence[Node], parts: Sequence[int], missing: Counter[Key]
    ) -> list[Sequence[Node]]:
        """The group, and behind it what can be computed in the same call."""
        for chain in self.programs.chains(group[0].stage.program, parts):
            if levels := together(group, chain, missing):
                return levels
        return [group]

    def _run_bucket(self, bucket: int, levels: Sequence[Sequence[Node]]) -> None:
        first, last = levels[0], levels[-1]
        stages = [level[0].stage for level in levels]
        weights = [_arrays(*stages)]
        stacked = any(node.stage is not stages[0] for node in first)
        if stacked:
            weights = [_arrays(node.stage) for node in first]
            weights += weights[:1] * (bucket - len(first))
        chain = tuple(stage.program for stage in stages)
        run = self.programs.run(chain, bucket, stacked=stacked)
        output = run(weights, gather(first, bucket, chain[0].row_shape))
        for place, node in enumerate(last):
            for child in node.children.values():
                child.source, child.place = output, place
            if not node.children:
                node.answer = np.asarray(output)[place]


def _check(what: str, expected: tuple[Shapes, ...], components: Sequence[Component]) -> None:
    found = tuple(component.weights.shapes for component in components)
    if found != expected:
        raise WrongArrays(
            f"loading {what} {components[-1].digest}: expected arrays {expected}, found {found}"
        )


def _logits(path: LoadedPath, leaves: Iterator[Node]) -> NDArray[np.float32]:
    """From the leaves of its own walks, which are the next."""
    answers: list[NDArray[np.float32]] = []
    for walk in path.walks:
        answer = next(leaves).answer
        assert answer is not None
        answers.append(answer[: walk.outputs])
    if path.mixer is not None:
        return router.mix(path.mixer, answers)
    return np.concatenate(answers) if answers[1:] else answers[0]


def _copied(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _copied(inner) for name, inner in tree.items()}  # pyright: ignore
    return np.array(tree, np.float32)


def _flat(tree: Any, name: str = "") -> Shapes:
    """Names and shapes of all arrays, in order of the names."""
    if isinstance(tree, Mapping):
        return tuple(
            found for inner in sorted(tree) for found in _flat(tree[inner], f"{name}/{inner}")
        )
    return ((name, tuple(tree.shape)),)


def _ranks(flat: Shapes) -> dict[str, int]:
    return {name: len(shape) for name, shape in flat}


@functools.cache
def _ranks_of(kind: str) -> tuple[dict[str, int], ...]:
    """Of the arrays that a component of a kind may have."""
    if kind in router.KINDS:
        return (_ranks(router.smallest(kind)),)
    plain, normed = (
        _ranks(_flat(shapes(arch, kind))) for arch in (SMALLEST, replace(SMALLEST, input_norm=True))
    )
    return (plain,) if plain == normed else (plain, normed)


@functools.lru_cache(maxsize=1024)
def _interned(found: Shapes) -> Shapes:
    """The same object for equal shapes: thousands of components have a few."""
    return found


@functools.cache
def _shapes(program: Program) -> tuple[Shapes, ...]:
    """The shapes that its weights must have: never those of the first, which may be malformed."""
    return tuple(_flat(shapes(program.shape, kind)) for kind in program.kinds)


def _arrays(*stages: Stage) -> tuple[Any, ...]:
    return tuple(one.weights.arrays for stage in stages for one in stage.components)
