"""One forward for rows of many tasks: rows are grouped by stage, equal prefixes computed once.

The only file of the gateway that uses JAX. Weights are arguments of the compiled programs, so their
number depends neither on the number of tasks nor on depth: one per kind of stage and bucket.

A row's result does not depend on its batch mates: bit for bit within a bucket, and to rounding
(about 1e-6 where logits are about 1) between buckets, whose programs add in another order.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from service.metrics import Metrics
from service.paths import Program, Row, Stage, padded_classes
from vit import apply, shapes

logger = logging.getLogger(__name__)
CACHE_HIT = "/jax/compilation_cache/cache_hits"
COMPILING_THREADS = 2


@dataclass(slots=True, eq=False)
class _Node:
    """One image after one prefix of stages, shared by all rows that come this way.

    Nodes know their children only: a cycle would keep the components of a removed task, and every
    batch's activations, until the next garbage collection.
    """

    stage: Stage
    image: NDArray[np.float32]
    source: Array | None = None  # what the group before gave; None at a root
    place: int = 0  # this node's row in `source`
    children: dict[Stage, _Node] = field(default_factory=dict)
    logits: NDArray[np.float32] | None = None  # of a leaf


class Engine:
    """Compiled programs and the walk of a batch through them; `run` is for one thread only."""

    def __init__(self, metrics: Metrics, *, max_rows: int, compilation_cache: str | None) -> None:
        """Programs are compiled for 1, 2, 4 ... `max_rows` rows, and kept in the cache's folder."""
        if compilation_cache is not None:
            jax.config.update("jax_compilation_cache_dir", compilation_cache)
            # Without these JAX keeps only programs that took a second to compile.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        self._metrics = metrics
        self.buckets = tuple(1 << i for i in range(max_rows.bit_length()))
        self._programs: dict[tuple[Program, int], Future[Any]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(COMPILING_THREADS, thread_name_prefix="compile")
        self._compiling = threading.local()
        jax.monitoring.register_event_listener(self._note_cache_hit)

    def close(self) -> None:
        """Ends the compiling threads."""
        jax.monitoring.unregister_event_listener(self._note_cache_hit)
        self._pool.shutdown(cancel_futures=True)

    def place(self, kind: str, tree: Any) -> Any:
        """A component's arrays on the device: float32, and heads padded with classes of zeros.

        They are copied: `device_put` would keep using the mapped file, whatever `may_alias` says,
        and a later change of the store's files must not reach a running task.
        """
        arrays = jax.tree.map(lambda array: np.array(array, np.float32), tree)
        if kind == "head":
            classes = arrays["bias"].shape[0]
            missing = padded_classes(classes) - classes
            arrays = {
                "kernel": np.pad(arrays["kernel"], ((0, 0), (0, missing))),
                "bias": np.pad(arrays["bias"], (0, missing)),
            }
        return jax.device_put(arrays)

    def warm(self, stages: Iterable[Stage]) -> None:
        """Compiles every bucket of every stage that has no program yet; blocks.

        Raises ValueError if a stage's arrays do not have the shapes its program needs.
        """
        waiting: list[Future[Any]] = []
        for stage in stages:
            found = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), stage.weights)
            expected = _shapes(stage.program)
            if found != expected:
                raise ValueError(
                    f"loading {'+'.join(stage.program.kinds)} "
                    f"{stage.components[-1].digest}: expected arrays {expected}, found {found}"
                )
            with self._lock:
                waiting += [self._program(stage.program, expected, n) for n in self.buckets]
        for program in waiting:
            program.result()

    def _program(self, program: Program, weights: Any, rows: int) -> Future[Any]:
        found = self._programs.get((program, rows))
        if found is None or (found.done() and found.exception() is not None):
            found = self._pool.submit(self._compile, program, weights, rows)
            self._programs[program, rows] = found
        return found

    def _compile(self, program: Program, weights: Any, rows: int) -> Any:
        started = time.monotonic()
        arch = program.shape
        first = program.kinds[0] == "embedding"
        row = (arch.image_size, arch.image_size, 3) if first else (arch.tokens, arch.width)

        def stage(trees: tuple[Any, ...], x: Array) -> Array:
            for kind, tree in zip(program.kinds, trees, strict=True):
                x = apply(arch, kind, tree, x)
            return x

        traced = jax.jit(stage).lower(weights, jax.ShapeDtypeStruct((rows, *row), jnp.float32))
        self._compiling.hit = False
        compiled = traced.compile()
        source = "cache" if self._compiling.hit else "compiler"
        self._metrics.compilations.labels(source).inc()
        logger.info(
            "event=program kinds=%s rows=%d source=%s seconds=%.3f",
            "+".join(program.kinds),
            rows,
            source,
            time.monotonic() - started,
        )
        return compiled

    def _note_cache_hit(self, event: str, **_: Any) -> None:
        if event == CACHE_HIT:  # raised in the thread that compiles
            self._compiling.hit = True

    def run(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Logits [classes] of each row. The paths must have been warmed."""
        waiting, leaves, missing = _plan(rows)
        computed = missing.total()
        while waiting:
            stage = _next_stage(waiting, missing)
            group = waiting.pop(stage)
            missing[stage] -= len(group)
            for start in range(0, len(group), self.buckets[-1]):
                self._run_group(stage, group[start : start + self.buckets[-1]])
            for node in group:
                for child in node.children.values():
                    waiting.setdefault(child.stage, []).append(child)
        self._metrics.shared_rows.inc(sum(len(row.path.stages) for row in rows) - computed)
        return [
            leaf.logits[: len(row.path.labels)]
            for leaf, row in zip(leaves, rows, strict=True)
            if leaf.logits is not None
        ]

    def _run_group(self, stage: Stage, group: Sequence[_Node]) -> None:
        bucket = next(n for n in self.buckets if n >= len(group))
        compiled = self._programs[stage.program, bucket].result()
        output = compiled(stage.weights, _gather(group, bucket))
        for place, node in enumerate(group):
            for child in node.children.values():
                child.source, child.place = output, place
            if not node.children:
                node.logits = np.asarray(output)[place]
        self._metrics.padded_rows.inc(bucket - len(group))


@functools.cache
def _shapes(program: Program) -> tuple[Any, ...]:
    """What its weights must be. Never what came first: that one may be the malformed one."""
    return tuple(shapes(program.shape, kind) for kind in program.kinds)


_Waiting = dict[Stage, list[_Node]]


def _plan(rows: Sequence[Row]) -> tuple[_Waiting, list[_Node], Counter[Stage]]:
    """What must be computed: the roots by stage, each row's leaf, and how many nodes by stage."""
    roots: dict[tuple[bytes, Stage], _Node] = {}
    missing: Counter[Stage] = Counter()
    leaves: list[_Node] = []
    for row in rows:
        first, *rest = row.path.stages
        key = (row.identity, first)
        if key not in roots:
            roots[key] = _Node(first, row.pixels)
            missing[first] += 1
        node = roots[key]
        for stage in rest:
            if stage not in node.children:
                node.children[stage] = _Node(stage, row.pixels)
                missing[stage] += 1
            node = node.children[stage]
        leaves.append(node)
    waiting: _Waiting = {}
    for node in roots.values():
        waiting.setdefault(node.stage, []).append(node)
    return waiting, leaves, missing


def _next_stage(waiting: _Waiting, missing: Counter[Stage]) -> Stage:
    """A stage that no further row can reach later; any, if paths cross in opposite orders."""
    for stage, group in waiting.items():
        if missing[stage] == len(group):
            return stage
    return next(iter(waiting))


def _gather(group: Sequence[_Node], bucket: int) -> Array | NDArray[np.float32]:
    """The group's inputs as one array [bucket, ...], zeros behind the last."""
    source = group[0].source
    if source is None:
        inputs = [node.image for node in group]
    elif source.shape[0] == bucket and all(
        node.source is source and node.place == place for place, node in enumerate(group)
    ):
        return source  # the whole group passed through unchanged: stays on the device
    else:
        inputs = [np.asarray(node.source)[node.place] for node in group]
    batch = np.zeros((bucket, *inputs[0].shape), np.float32)
    for place, one in enumerate(inputs):
        batch[place] = one
    return batch
