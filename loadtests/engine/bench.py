"""Measures engines, in this process and without HTTP, next to peers and the machine's peak.

Everything that is compared takes turns in each round; figures are medians over the rounds.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.engine.peers import F32, peers
from loadtests.errors import LoadTestError
from loadtests.systems import System, adapters_and_head, backbone, with_adapters
from service.compute.engine import Engine
from service.compute.paths import LoadedPath, Row
from service.images import named
from service.metrics.instruments import Metrics
from service.tasks.eviction import Budget, Recency
from service.tasks.residency import Residency
from vit import Architecture

Progress = Callable[[str], None]
NETWORKS = (("Ti/16", 224, 12), ("Ti/16", 32, 3), ("B/16", 80, 12))  # size, pixels, blocks
BACKENDS = ("jax", "openvino")
OURS = "engine, "
PEAK = "matrix product"
PEAK_SIZE = 1024
MAX_ROWS = 32
TASKS = 32
OWN = 0.03  # of all parameters
EQUAL = 1e-3  # of logits about 1


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

    rounds: int
    seconds: float  # of each turn, at least one call
    rows: tuple[int, ...] = (1, 8, 32)


@dataclass(frozen=True, slots=True)
class Speed:
    """One network at one number of rows."""

    network: str
    rows: int
    peak_gflops: float  # of a large matrix product with all cores of this process
    gflops: Mapping[str, float]  # the whole network's operations per second, by who computes


@dataclass(frozen=True, slots=True)
class Mixing:
    """32 rows, in times of 32 rows of one task with an image each."""

    network: str
    backend: str
    tasks: Mapping[int, float]  # by number of distinct tasks with adapters and a head of their own
    same_image: float  # of 32 tasks for one image that part with an adapter before the last block


@dataclass(frozen=True, slots=True)
class Start:
    """What a task of a new kind needs before it is ready."""

    network: str
    backend: str
    programs: int
    cold_s: float
    warm_s: float  # with the programs that were kept on disk
    compiled_warm: int  # programs that had to be compiled all the same


@dataclass(frozen=True, slots=True)
class Report:
    """All of it."""

    speeds: Sequence[Speed]
    mixing: Sequence[Mixing]
    starts: Sequence[Start]


class _Loaded:
    """An engine with tasks of one architecture."""

    def __init__(self, system: System, tasks: Sequence[str], backend: str, cache: str) -> None:
        self._metrics = Metrics()
        self.engine = Engine(
            self._metrics,
            max_rows=MAX_ROWS,
            compilation_cache=cache,
            backend=backend,
            threads=len(os.sched_getaffinity(0)),
        )
        budget = Budget(2**40, Recency(self._metrics))
        residency = Residency(system.store, self.engine.place, self._metrics, budget)
        self.paths = [residency.load(system.store.resolve(task)) for task in tasks]
        residency.close()
        started = time.perf_counter()
        self.engine.warm(self.paths[0])
        self.engine.programs.wait()
        self.warm_s = time.perf_counter() - started

    def programs(self, source: str) -> int:
        name = "munet_compilations_total"
        return int(self._metrics.registry.get_sample_value(name, {"source": source}) or 0)


def measure(setup: Setup, progress: Progress = lambda what: None) -> Report:
    """Runs everything, one thing at a time. Raises LoadTestError where answers differ."""
    speeds: list[Speed] = []
    mixing: list[Mixing] = []
    starts: list[Start] = []
    for size, pixels, layers in NETWORKS:
        arch = backbone(size, image_size=pixels, layers=layers)
        name = f"{size}-{layers} at {pixels} px"
        for rows in setup.rows:
            progress(f"{name}, {rows} rows")
            speeds.append(_speed(name, arch, rows, setup))
        for backend in BACKENDS:
            progress(f"{name}, mixed tasks with {backend}")
            with tempfile.TemporaryDirectory() as folder:
                starts.append(_start(name, arch, backend, folder))
                mixing.append(_mixing(name, arch, backend, setup, folder))
    return Report(speeds, mixing, starts)


def _system(folder: str, arch: Architecture, tasks: int) -> tuple[System, list[str]]:
    system = System(tempfile.mkdtemp(dir=folder), arch, adapters_and_head(arch))
    names = [f"task/{number}" for number in range(1, tasks + 1)]
    for seed, name in enumerate(names, 1):
        system.publish(name, seed)
    return system, names


def _start(name: str, arch: Architecture, backend: str, folder: str) -> Start:
    """Makes programs ready twice: with an empty folder of programs, and with a full one."""
    system, names = _system(folder, with_adapters(arch, OWN), tasks=1)
    cold = _Loaded(system, names, backend, folder)
    cold.engine.close()
    warm = _Loaded(system, names, backend, folder)
    warm.engine.close()
    programs = cold.programs("compiler")
    return Start(name, backend, programs, cold.warm_s, warm.warm_s, warm.programs("compiler"))


def _row(path: LoadedPath, pixels: F32) -> Row:
    return Row(path, {len(pixels): named(pixels)})


def _images(arch: Architecture, count: int) -> F32:
    size = arch.image_size
    return np.random.default_rng(0).standard_normal((count, size, size, 3), np.float32)


def _speed(name: str, arch: Architecture, rows: int, setup: Setup) -> Speed:
    images = _images(arch, rows)
    matrix = np.random.default_rng(0).standard_normal((PEAK_SIZE, PEAK_SIZE), np.float32)
    turns: dict[str, Callable[[], Any]] = {PEAK: lambda: matrix @ matrix}
    with tempfile.TemporaryDirectory() as folder:
        system = System(str(Path(folder, "store")), arch, ("head",))
        system.publish("task", 1)
        engines = [(backend, _Loaded(system, ["task"], backend, folder)) for backend in BACKENDS]
        for backend, loaded in engines:
            mine = [_row(loaded.paths[0], image) for image in images]
            turns[OURS + backend] = lambda run=loaded.engine.run, mine=mine: np.stack(run(mine))
        components = system.store.resolve("task").path.components
        tree = {part: system.store.component(digest) for part, digest in components.items()}
        for peer, forward in peers(arch, tree, rows):
            turns[peer] = lambda forward=forward: forward(images)
        _require_equal(name, turns)
        seconds = _take_turns(turns, setup)
        for _, loaded in engines:
            loaded.engine.close()
    peak = 2 * PEAK_SIZE**3 / seconds.pop(PEAK) / 1e9
    work = rows * _operations(arch) / 1e9
    return Speed(name, rows, peak, {who: work / took for who, took in seconds.items()})


def _require_equal(name: str, turns: Mapping[str, Callable[[], Any]]) -> None:
    answers = {who: turn() for who, turn in turns.items() if who != PEAK}
    first, *others = answers
    for other in others:
        found = float(np.abs(answers[first] - answers[other]).max())
        if not found < EQUAL:
            raise LoadTestError(
                f"comparing {name}: expected equal logits, found {first} and {other} {found} apart"
            )


def _operations(arch: Architecture) -> int:
    """Of one row through the whole network: multiplications and additions."""
    width, tokens = arch.width, arch.tokens
    block = 2 * tokens * (4 * width**2 + 2 * width * arch.mlp_dim) + 4 * tokens**2 * width
    stem = 2 * (tokens - 1) * 3 * arch.patch_size**2 * width
    return stem + arch.num_layers * block + 2 * width * arch.num_classes


def _mixing(name: str, arch: Architecture, backend: str, setup: Setup, folder: str) -> Mixing:
    adapted = with_adapters(arch, OWN)
    late = replace(adapted, adapters=adapted.adapters[-1:])
    loaded = _Loaded(*_system(folder, adapted, TASKS), backend, folder)
    parting = _Loaded(*_system(folder, late, TASKS), backend, folder)
    images = _images(arch, MAX_ROWS)

    def turn(engine: Engine, paths: Sequence[LoadedPath], images: Sequence[F32]) -> Any:
        batch = [_row(path, image) for path, image in zip(paths, images, strict=True)]
        return lambda: engine.run(batch)

    counts = (1, 8, MAX_ROWS)
    turns = {
        str(count): turn(
            loaded.engine, [loaded.paths[i % count] for i in range(MAX_ROWS)], list(images)
        )
        for count in counts
    }
    turns["late"] = turn(parting.engine, parting.paths[:1] * MAX_ROWS, list(images))
    turns["same"] = turn(parting.engine, parting.paths, [images[0]] * MAX_ROWS)
    seconds = _take_turns(turns, setup)
    for one in (loaded, parting):
        one.engine.close()
    tasks = {count: seconds[str(count)] / seconds["1"] for count in counts}
    return Mixing(name, backend, tasks, seconds["same"] / seconds["late"])


def _take_turns(turns: Mapping[str, Callable[[], Any]], setup: Setup) -> dict[str, float]:
    """Median seconds of a call, each after one that does not count."""
    seconds: dict[str, list[float]] = {who: [] for who in turns}
    for _ in range(setup.rounds):
        for who, turn in turns.items():
            turn()
            calls, started = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - started < setup.seconds:
                turn()
                calls += 1
            seconds[who].append((time.perf_counter() - started) / calls)
    return {who: statistics.median(found) for who, found in seconds.items()}
