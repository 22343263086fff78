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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute import probe, router
from service.compute.backends import Chain
from service.compute.backends.choice import choose
from service.compute.paths import (
    Component,
    LoadedPath,
    Program,
    Row,
    Shapes,
    Stage,
    Walk,
    padded_classes,
)
from service.compute.programs import SIDE_BY_SIDE, Programs, split, tokens_of
from service.errors import Told
from service.images import Decoded, Identity
from service.metrics.instruments import Metrics
from vit import Architecture, shapes

SMALLEST = Architecture(
    width=1, heads=1, mlp_dim=1, patch_size=1, image_size=1, num_layers=0, num_classes=1
)

Key = Stage | tuple[Program, int]  # what runs together: one stage's rows, or a stackable one's


@dataclass(frozen=True, slots=True)
class DeviceArrays:
    """A component's arrays where the programs need them."""

    shapes: Shapes
    arrays: Any  # the back end's


@dataclass(slots=True, eq=False)
class _Node:
    """One image after one prefix of stages, shared by all rows that come this way.

    Nodes know their children only: a cycle would keep the components of a removed task, and every
    batch's activations, until the next garbage collection.
    """

    stage: Stage
    key: Key
    image: NDArray[np.float32]
    source: Any = None  # what the group before gave; None at a root
    place: int = 0  # this node's row in `source`
    children: dict[Stage, _Node] = field(default_factory=dict)
    answer: NDArray[np.float32] | None = None  # of a leaf: logits, or features


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

    def probe(self, path: LoadedPath) -> None:
        """Runs one image through a warmed path, between two batches of a stream; blocks.

        A path is served only after finite numbers for that image: else raises NotFinite.
        """
        with self._turn():
            (logits,), _ = self._answers([probe.row(path)])
        probe.require_finite(path, logits)

    def run(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Logits [classes] of each row. The paths must have been warmed."""
        with self._turn():
            answers, shared = self._answers(rows)
        self._metrics.shared_rows.inc(shared)
        return answers

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """A stream for one batch. Threads get one in the order in which they began to wait."""
        with self._next:
            self._running.acquire()
        try:
            yield
        finally:
            self._running.release()

    def _answers(self, rows: Sequence[Row]) -> tuple[list[NDArray[np.float32]], int]:
        """Logits of each row, and how many runs of a stage were shared."""
        walks = [(walk, row.images[walk.target]) for row in rows for walk in row.path.walks]
        waiting, leaves, missing = _plan(walks)
        computed = missing.total()
        while waiting:
            key = _next_key(waiting, missing)
            if alike := self._side_by_side(key, waiting, missing):
                group = self._run_side_by_side([waiting.pop(one)[0] for one in alike], missing)
            else:
                group = self._run_group(waiting.pop(key), missing)
            for node in group:
                for child in node.children.values():
                    waiting.setdefault(child.key, []).append(child)
        rest = iter(leaves)
        shared = sum(len(walk.stages) for walk, _ in walks) - computed
        return [_logits(row.path, rest) for row in rows], shared

    def _run_group(self, group: Sequence[_Node], missing: Counter[Key]) -> Sequence[_Node]:
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

    def _side_by_side(self, key: Key, waiting: _Waiting, missing: Counter[Key]) -> list[Key]:
        """Groups of one row each, with this one, that a program side by side may run; or none."""

        def alone(one: Key) -> bool:
            return len(waiting[one]) == missing[one] == 1

        program = waiting[key][0].stage.program
        if not (alone(key) and self.programs.side_by_side(program)):
            return []
        alike = (one for one in waiting if alone(one) and waiting[one][0].stage.program is program)
        found = list(itertools.islice(alike, SIDE_BY_SIDE))
        return found if len(found) == SIDE_BY_SIDE else []

    def _run_side_by_side(self, group: Sequence[_Node], missing: Counter[Key]) -> Sequence[_Node]:
        for node in group:
            missing[node.key] -= 1
        self._run_bucket(len(group), [group])
        return group

    def _levels(
        self, group: Sequence[_Node], parts: Sequence[int], missing: Counter[Key]
    ) -> list[Sequence[_Node]]:
        """The group, and behind it what can be computed in the same call."""
        for chain in self.programs.chains(group[0].stage.program, parts):
            if levels := _together(group, chain, missing):
                return levels
        return [group]

    def _run_bucket(self, bucket: int, levels: Sequence[Sequence[_Node]]) -> None:
        first, last = levels[0], levels[-1]
        stages = [level[0].stage for level in levels]
        weights = [_arrays(*stages)]
        stacked = any(node.stage is not stages[0] for node in first)
        if stacked:
            weights = [_arrays(node.stage) for node in first]
            weights += weights[:1] * (bucket - len(first))
        chain = tuple(stage.program for stage in stages)
        run = self.programs.run(chain, bucket, stacked=stacked)
        output = run(weights, _gather(first, bucket, chain[0].row_shape))
        for place, node in enumerate(last):
            for child in node.children.values():
                child.source, child.place = output, place
            if not node.children:
                node.answer = np.asarray(output)[place]


def _together(
    group: Sequence[_Node], chain: Chain, missing: Counter[Key]
) -> list[Sequence[_Node]] | None:
    """A group and the groups behind it, where all its rows take these stages together."""
    levels = [group]
    stage = group[0].stage
    if any(node.stage is not stage for node in group):
        return None
    for program in chain[1:]:
        children = [child for node in levels[-1] for child in node.children.values()]
        first = children[0]  # only a walk's last stage has none, and it is the chain's last too
        alone = program.stackable or missing[first.key] == len(children)
        if not alone or len(children) != len(group) or first.stage.program is not program:
            return None
        if any(child.stage is not first.stage for child in children):
            return None
        levels.append(children)
    return levels


def _check(what: str, expected: tuple[Shapes, ...], components: Sequence[Component]) -> None:
    found = tuple(component.weights.shapes for component in components)
    if found != expected:
        raise WrongArrays(
            f"loading {what} {components[-1].digest}: expected arrays {expected}, found {found}"
        )


def _logits(path: LoadedPath, leaves: Iterator[_Node]) -> NDArray[np.float32]:
    """From the leaves of its own walks, which are the next."""
    answers: list[NDArray[np.float32]] = []
    for walk in path.walks:
        answer = next(leaves).answer
        assert answer is not None
        answers.append(answer[: walk.outputs])
    return answers[0] if path.mixer is None else router.mix(path.mixer, answers)


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


_Waiting = dict[Key, list[_Node]]


def _plan(walks: Sequence[tuple[Walk, Decoded]]) -> tuple[_Waiting, list[_Node], Counter[Key]]:
    """What must be computed: the roots by key, the leaf of each walk, and how many nodes by key."""
    roots: dict[Identity, dict[Stage, _Node]] = {}
    missing: Counter[Key] = Counter()
    leaves: list[_Node] = []
    for walk, image in walks:
        siblings = roots.setdefault(image.identity, {})
        node, depth = None, 0
        for stage in walk.stages:
            stackable = stage.program.stackable
            depth += not stackable  # adapters elsewhere in the path change nothing
            node = siblings.get(stage)
            if node is None:
                key = (stage.program, depth) if stackable else stage
                node = siblings[stage] = _Node(stage, key, image.pixels)
                missing[key] += 1
            siblings = node.children
        assert node is not None
        leaves.append(node)
    waiting: _Waiting = {}
    for images in roots.values():
        for node in images.values():
            waiting.setdefault(node.key, []).append(node)
    return waiting, leaves, missing


def _next_key(waiting: _Waiting, missing: Counter[Key]) -> Key:
    """A group that no further row can reach later; any, if paths cross in opposite orders."""
    for key, group in waiting.items():
        if missing[key] == len(group):
            return key
    return next(iter(waiting))


def _gather(group: Sequence[_Node], bucket: int, shape: tuple[int, ...]) -> Any:
    """The group's inputs as one array [bucket, ...], zeros behind the last."""
    source = group[0].source
    if (
        source is not None
        and source.shape[0] == bucket
        and all(node.source is source and node.place == i for i, node in enumerate(group))
    ):
        return source  # the whole group passed through unchanged: stays on the device
    batch = np.empty((bucket, *shape), np.float32)
    for place, node in enumerate(group):
        batch[place] = node.image if node.source is None else np.asarray(node.source)[node.place]
    batch[len(group) :] = 0
    return batch
