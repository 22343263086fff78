"""One forward for rows of many tasks: rows are grouped by stage, equal prefixes computed once.

Programs take weights as arguments, so their number depends neither on the number of tasks nor on
depth: some per kind of stage and bucket. Stages that are small and each task's own, adapters and
heads, run in one call for all tasks that wait at the same depth. A multipath row takes a walk for
each of its sub-paths, which meets others like any walk; what they answer is mixed at the end.

A row's result does not depend on its batch mates: bit for bit within a bucket, and to rounding
(about 1e-6 where logits are about 1) between buckets, whose programs add in another order.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute import mixing, probe
from service.compute.backends import Run
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
from service.errors import Told
from service.images import Decoded
from service.telemetry.metrics import Metrics
from vit import Architecture, shapes

logger = logging.getLogger(__name__)
COMPILING_THREADS = 2
BUCKET_TOKENS = 1024  # in one call at most: more would take memory and save nothing
CALL_TOKENS = 16  # a call takes as long as so many tokens: its weights are read from memory
SMALLEST = Architecture(
    width=1, heads=1, mlp_dim=1, patch_size=1, image_size=1, num_layers=0, num_classes=1
)

Key = Stage | tuple[Program, int]  # what runs together: one stage's rows, or a stackable one's


@dataclass(frozen=True, slots=True)
class Placed:
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
    """Compiled programs and the walk of batches through them, on each of its streams one."""

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
        self.buckets = tuple(1 << i for i in range(max_rows.bit_length()))
        self._programs: dict[tuple[Program, int, bool], Future[Run]] = {}
        self._lock = threading.Lock()
        self.streams = self._backend.streams
        self._next, self._running = threading.Lock(), threading.Semaphore(self.streams)
        self._pool = ThreadPoolExecutor(COMPILING_THREADS, thread_name_prefix="compile")
        metrics.describe(backend=self._backend.name, device=self._backend.device)

    def close(self) -> None:
        """Ends the compiling threads."""
        self._pool.shutdown(cancel_futures=True)
        self._backend.close()

    def place(self, kind: str, tree: Any) -> Placed:
        """A component's arrays on the device: float32, and heads padded with classes of zeros.

        They are copied, so that the memory into which the file was read is free at once. Raises
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
        placed = arrays if kind in mixing.KINDS else self._backend.place(kind, arrays)
        return Placed(_interned(_flat(arrays)), placed)

    def warm(self, path: LoadedPath) -> None:
        """Compiles every bucket of every stage that has no program yet; blocks.

        Raises WrongArrays if a component's arrays do not have the shapes that are needed.
        """
        if path.mixer is not None:
            _check("router and connectors", path.mixer.shapes, path.mixer.components)
        stages = dict.fromkeys(stage for walk in path.walks for stage in walk.stages)
        for stage in stages:
            _check("+".join(stage.program.kinds), _shapes(stage.program), stage.components)
        waiting: list[Future[Run]] = []
        with self._lock:
            for program in dict.fromkeys(stage.program for stage in stages):
                for rows in _buckets(self.buckets, program):
                    waiting.append(self._program(program, rows, stacked=False))
                    if program.stackable and rows > 1:
                        waiting.append(self._program(program, rows, stacked=True))
        for compiling in waiting:
            compiling.result()

    def _program(self, program: Program, rows: int, *, stacked: bool) -> Future[Run]:
        found = self._programs.get((program, rows, stacked))
        if found is None or (found.done() and found.exception() is not None):
            found = self._pool.submit(self._compile, program, rows, stacked=stacked)
            self._programs[program, rows, stacked] = found
        return found

    def _compile(self, program: Program, rows: int, *, stacked: bool) -> Run:
        started = time.monotonic()
        compiled = self._backend.compile(program, rows, stacked=stacked)
        source = "cache" if compiled.cached else "compiler"
        self._metrics.compilations.labels(source).inc()
        logger.info(
            "event=program kinds=%s rows=%d stacked=%s source=%s seconds=%.3f",
            "+".join(program.kinds),
            rows,
            stacked,
            source,
            time.monotonic() - started,
        )
        return compiled.run

    def probe(self, path: LoadedPath) -> None:
        """Runs one image through a warmed path, between two batches of a stream; blocks.

        A path is served only after that image got finite numbers: raises NotFinite.
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
        """A stream for one batch. Who waits is next, however soon others are back."""
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
            group = waiting.pop(key)
            missing[key] -= len(group)
            self._run_group(group)
            for node in group:
                for child in node.children.values():
                    waiting.setdefault(child.key, []).append(child)
        rest = iter(leaves)
        shared = sum(len(walk.stages) for walk, _ in walks) - computed
        return [_logits(row.path, rest) for row in rows], shared

    def _run_group(self, group: Sequence[_Node]) -> None:
        program = group[0].stage.program
        split = _split(_buckets(self.buckets, program), _tokens(program), len(group))
        start = 0
        for bucket in split:
            self._run_bucket(program, bucket, group[start : start + bucket])
            start += bucket
        self._metrics.padded_rows.inc(start - len(group))

    def _run_bucket(self, program: Program, bucket: int, nodes: Sequence[_Node]) -> None:
        weights = [_arrays(nodes[0].stage)]
        stacked = any(node.stage is not nodes[0].stage for node in nodes)
        if stacked:
            weights = [_arrays(node.stage) for node in nodes]
            weights += weights[:1] * (bucket - len(nodes))
        run = self._programs[program, bucket, stacked].result()
        output = run(weights, _gather(nodes, bucket, program.row_shape))
        for place, node in enumerate(nodes):
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


def _logits(path: LoadedPath, leaves: Iterator[_Node]) -> NDArray[np.float32]:
    """From the leaves of its own walks, which are the next."""
    answers: list[NDArray[np.float32]] = []
    for walk in path.walks:
        answer = next(leaves).answer
        assert answer is not None
        answers.append(answer[: walk.outputs])
    return answers[0] if path.mixer is None else mixing.mix(path.mixer, answers)


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
    if kind in mixing.KINDS:
        return (_ranks(mixing.smallest(kind)),)
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
    """What its weights must be. Never what came first: that one may be the malformed one."""
    return tuple(_flat(shapes(program.shape, kind)) for kind in program.kinds)


def _arrays(stage: Stage) -> tuple[Any, ...]:
    return tuple(component.weights.arrays for component in stage.components)


def _tokens(program: Program) -> int:
    return program.tokens or program.shape.tokens


@functools.cache
def _buckets(buckets: tuple[int, ...], program: Program) -> tuple[int, ...]:
    most = max(1, BUCKET_TOKENS // _tokens(program))
    return tuple(bucket for bucket in buckets if bucket <= most)


@functools.cache
def _split(buckets: tuple[int, ...], tokens: int, rows: int) -> tuple[int, ...]:
    """The cheapest buckets that hold so many rows; only the last may have padding."""
    if rows <= 0:
        return ()
    options = [(bucket, *_split(buckets, tokens, rows - bucket)) for bucket in buckets[::-1]]
    return min(options, key=lambda split: sum(CALL_TOKENS + tokens * bucket for bucket in split))


_Waiting = dict[Key, list[_Node]]


def _plan(walks: Sequence[tuple[Walk, Decoded]]) -> tuple[_Waiting, list[_Node], Counter[Key]]:
    """What must be computed: the roots by key, the leaf of each walk, and how many nodes by key."""
    roots: dict[bytes, dict[Stage, _Node]] = {}
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
    """What no further row can reach later; any, if paths cross in opposite orders."""
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
