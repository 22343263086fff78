"""The engine's compiled programs: one for each kind of stage and bucket, and fused ones.

A fused program runs several stages in one call: stages that follow each other, or one kind of stage
side by side for rows that each have weights of their own. It has the same operations as the single
programs, so its answers are the same bit for bit; it saves the cost of calls. It is made in the
background after the first path that can use it has been loaded. A path waits only for the programs
for one row.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

from service.compute.backends import Backend, Chain, Run
from service.compute.paths import Program, elements
from service.compute.priority import BACKGROUND, BATCH, give_way
from service.metrics.instruments import Metrics
from vit import shapes

logger = logging.getLogger(__name__)
COMPILING_THREADS = 2
CALL_TOKENS = 16  # what a call costs, in tokens: its weights are read from memory
FUSED = 4  # equal stages of a fused program
SIDE_BY_SIDE = 4  # rows of a program that runs a stage for each with its own weights
SMALL_WEIGHTS = 2**22  # bytes of such a stage: a larger one takes much longer than a call costs
MOST_FUSED = 96  # stages in all fused programs: each takes about 0.8 MB, and so does a copy

# What a program and each copy of it may take, while it is made and afterwards: copies of its
# weights in its own layout. Memory for that is asked for before one is made. For a program of one
# stage, components are evicted; a fused one, or another copy, is made only if memory is left.
WEIGHT_COPIES, PROGRAM_BYTES = 2, 2**24

_Name = tuple[Chain, int, bool]  # stages, rows, stacked


class Memory(Protocol):
    """The memory that components leave for programs."""

    def require_room(self, size: int) -> None:
        """Makes room for this many bytes; raises where that cannot be done."""
        ...

    def has_spare(self, size: int) -> bool:
        """Whether this many bytes are left that components will not need."""
        ...


class _Unbounded:
    def require_room(self, size: int) -> None:
        """There is."""

    def has_spare(self, size: int) -> bool:
        """Always."""
        del size
        return True


class Programs:
    """All programs of one back end; safe to call from several threads."""

    def __init__(self, backend: Backend, metrics: Metrics, max_rows: int) -> None:
        """Programs are for 1, 2, 4 ... `max_rows` rows, a power of two."""
        self._backend = backend
        self._metrics = metrics
        self.memory: Memory = _Unbounded()
        self.buckets = tuple(1 << i for i in range(max_rows.bit_length()))
        self._buckets_of = functools.partial(_buckets_of, self.buckets, backend.call_tokens)
        self._programs: dict[_Name, Future[Any]] = {}  # of Run
        # By the first stage, the longest first: fused programs that are ready, for which rows.
        self._fused: dict[Program, list[tuple[Chain, frozenset[int]]]] = {}
        self._side_by_side: set[Program] = set()  # that are ready
        self._made: dict[Program, dict[bool, set[int]]] = {}  # for which rows, by whether stacked
        self._ready: dict[Program, tuple[int, ...]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(COMPILING_THREADS, thread_name_prefix="compile")
        self._following = ThreadPoolExecutor(  # for more rows, which no path waits for
            COMPILING_THREADS, thread_name_prefix="more", initializer=give_way, initargs=(BATCH,)
        )
        self._background = ThreadPoolExecutor(
            1, thread_name_prefix="fuse", initializer=give_way, initargs=(BACKGROUND,)
        )

    def close(self) -> None:
        """Ends the compiling threads."""
        self._background.shutdown(cancel_futures=True)
        self._following.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    def make(self, walk: Chain) -> None:
        """Makes every program for the stages of a walk; blocks until those for one row are there.

        Raises what one of those does. Programs for more rows are used as soon as they are there.
        """
        first = self.begin(tuple(dict.fromkeys(walk)))
        wait(first)
        for made in first:
            made.result()
        if self._backend.fuses:
            with self._lock:
                self._fuse(_fusable(walk, self._buckets_of))

    def begin(self, stages: Sequence[Program]) -> Sequence[Future[Run]]:
        """Begins every program for these stages; those for one row, which all wait for."""
        with self._lock:
            first = [self._single(program, 1, stacked=False) for program in stages]
            for rows, program in itertools.product(self.buckets[1:], stages):
                if rows in self._buckets_of(program):
                    self._single(program, rows, stacked=False)
                    if program.stackable:
                        self._single(program, rows, stacked=True)
        return first

    def has(self, program: Program) -> bool:
        """Whether there is one for one row."""
        found = self._programs.get(((program,), 1, False))
        return found is not None and found.done() and found.exception() is None

    def fuse(self, *chains: Chain) -> None:
        """Makes a program of each run of stages for one row, in the background if it has room."""
        if self._backend.fuses:
            with self._lock:
                self._fuse((chain, 1, False) for chain in chains if len(chain) > 1)

    def _single(self, program: Program, rows: int, *, stacked: bool) -> Future[Run]:
        name = ((program,), rows, stacked)
        found = self._programs.get(name)
        if found is None or (found.done() and found.exception() is not None):
            pool = self._pool if rows == 1 else self._following
            found = pool.submit(self._compile_single, program, rows, stacked=stacked)
            self._programs[name] = found
        return found

    def ready(self, program: Program) -> tuple[int, ...]:
        """For how many rows there are programs; at least for one, once `make` has returned."""
        return self._ready.get(program, (1,))

    def wait(self) -> None:
        """Until every program is there, or could not be made."""
        with self._lock:
            making = list(self._programs.values())
        wait(making)

    def _compile_single(self, program: Program, rows: int, *, stacked: bool) -> Run:
        try:
            self.memory.require_room(_size((program,)))
            run = self._compile((program,), rows, stacked=stacked)
        except Exception as error:  # those for fewer rows go on to answer
            logger.warning("event=program_not_made rows=%d error=%r", rows, error)
            raise
        with self._lock:
            made = self._made.setdefault(program, {False: {1}, True: {1}})
            made[stacked].add(rows)
            usable = made[False] & made[True] if program.stackable else made[False]
            self._ready[program] = tuple(sorted(usable))
        return run

    def _compile(self, chain: Chain, rows: int, *, stacked: bool) -> Run:
        started = time.monotonic()
        spare = functools.partial(self._spare, (chain, rows, stacked))
        compiled = self._backend.compile(chain, rows, stacked=stacked, spare=spare)
        source = "cache" if compiled.cached else "compiler"
        fused = _fused_stages((chain, rows, stacked))
        counter = self._metrics.fusions if fused else self._metrics.compilations
        counter.labels(source).inc()
        logger.info(
            "event=program kinds=%s rows=%d stacked=%s source=%s seconds=%.3f",
            "+".join(kind for program in chain for kind in program.kinds),
            rows,
            stacked,
            source,
            time.monotonic() - started,
        )
        return compiled.run

    def _spare(self, name: _Name) -> bool:
        """Whether memory is left for a program that nobody waits for: a fused one, or a copy."""
        chain = name[0] * (max(1, _fused_stages(name) // len(name[0])))
        return self.memory.has_spare(_size(chain))

    @property
    def fused_stages(self) -> int:
        """In all fused programs, also those that are being made."""
        return sum(map(_fused_stages, self._programs))

    def _fuse(self, names: Iterable[_Name]) -> None:
        for name in names:
            fits = self.fused_stages + _fused_stages(name) <= MOST_FUSED
            if name not in self._programs and fits:
                self._programs[name] = self._background.submit(self._compile_fused, *name)

    def _compile_fused(self, chain: Chain, rows: int, stacked: bool) -> Run | None:
        stages = _fused_stages((chain, rows, stacked))
        if not self._spare((chain, rows, stacked)):
            with self._lock:  # the next load of such a path asks again
                del self._programs[chain, rows, stacked]
            return None
        try:
            run = self._compile(chain, rows, stacked=stacked)
        except Exception as error:  # single programs go on to answer
            logger.warning("event=program_not_fused stages=%d error=%r", stages, error)
            raise
        with self._lock:
            if stacked:
                self._side_by_side.add(chain[0])
                return run
            ready = dict(self._fused.get(chain[0], ()))
            ready[chain] = ready.get(chain, frozenset()) | {rows}
            self._fused[chain[0]] = sorted(ready.items(), key=lambda one: len(one[0]), reverse=True)
        return run

    def chains(self, first: Program, parts: Sequence[int]) -> Iterator[Chain]:
        """The stages of fused programs that begin with this one, ready for each of these numbers of
        rows; the longest first.
        """
        for chain, rows in self._fused.get(first, ()):
            if rows.issuperset(parts):
                yield chain

    def side_by_side(self, program: Program) -> bool:
        """Whether SIDE_BY_SIDE rows may run it in one call, each with weights of its own."""
        return program in self._side_by_side

    def run(self, chain: Chain, rows: int, *, stacked: bool) -> Run:
        """A program that is ready."""
        return self._programs[chain, rows, stacked].result()


def _fusable(walk: Chain, buckets_of: Callable[[Program], Sequence[int]]) -> Iterator[_Name]:
    """What to fuse for a walk: runs of equal stages, all of it for one row, stages side by side."""
    for program in dict.fromkeys(walk):
        chain = (program,) * FUSED
        if any(walk[i : i + FUSED] == chain for i in range(len(walk))):
            for rows in buckets_of(program):
                yield chain, rows, False
    yield walk, 1, False
    for program in dict.fromkeys(walk):
        small = _weights(program) <= SMALL_WEIGHTS and SIDE_BY_SIDE in buckets_of(program)
        if small and not program.stackable and program.tokens:  # a stem is most often shared
            yield (program,), SIDE_BY_SIDE, True


def _fused_stages(name: _Name) -> int:
    """Of a fused program; 0 of a single one."""
    chain, rows, stacked = name
    first, *others = chain
    if others:
        return len(chain)
    return rows if stacked and not first.stackable else 0


def _size(chain: Chain) -> int:
    """Bytes that a program of these stages may take, and each copy of it."""
    return PROGRAM_BYTES + WEIGHT_COPIES * sum(map(_weights, chain))


@functools.cache
def _weights(program: Program) -> int:
    """Bytes of the weights that a stage runs with."""
    return 4 * sum(elements(shapes(program.shape, kind)) for kind in program.kinds)


@functools.cache
def _buckets_of(buckets: tuple[int, ...], call_tokens: int, program: Program) -> tuple[int, ...]:
    """The buckets for which a stage has programs."""
    most = max(1, call_tokens // tokens_of(program))
    return tuple(bucket for bucket in buckets if bucket <= most)


def tokens_of(program: Program) -> int:
    """Tokens of one row."""
    return program.tokens or program.shape.tokens


@functools.cache
def split(buckets: tuple[int, ...], tokens: int, rows: int) -> tuple[int, ...]:
    """The cheapest buckets that hold a number of rows; only the last may have padding."""
    if rows <= 0:
        return ()
    if rows > buckets[-1]:
        whole = rows // buckets[-1]
        return (buckets[-1],) * whole + split(buckets, tokens, rows - whole * buckets[-1])
    options = [(bucket, *split(buckets, tokens, rows - bucket)) for bucket in buckets[::-1]]
    return min(options, key=lambda found: sum(CALL_TOKENS + tokens * bucket for bucket in found))
