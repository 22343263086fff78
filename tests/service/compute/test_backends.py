"""Laws of the back ends: equal answers, nothing but arguments, programs kept safely on disk."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src import compilation_cache as jax_cache

from service.compute.backends import Backend, Compiled
from service.compute.backends.jax_backend import JaxBackend
from service.compute.backends.openvino_backend import OpenVinoBackend
from service.compute.paths import Program, features_program, stages_of
from tests.service.servers import ROOT
from tests.service.systems import TINY, random_component
from tests.service.waiting import PATIENCE_S
from vit import Architecture, shapes

# Largest difference of any number that goes out of a stage, to the largest such number.
BOUND = 1e-5


@pytest.fixture(scope="module")
def backends(compilations: str) -> Iterator[tuple[Backend, Backend]]:
    both = JaxBackend(compilations), OpenVinoBackend(compilations, 2)
    yield both
    for backend in both:
        backend.close()


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    heads = draw(st.sampled_from([1, 3]))
    layers = draw(st.integers(0, 2))
    patch = draw(st.sampled_from([2, 5]))
    return Architecture(
        width=heads * draw(st.sampled_from([8, 20])),
        heads=heads,
        mlp_dim=draw(st.sampled_from([24, 64])),
        patch_size=patch,
        image_size=draw(st.integers(patch, 3 * patch)),  # mostly no multiple of the patch
        num_layers=layers,
        num_classes=draw(st.integers(1, 20)),
        adapters=tuple(range(draw(st.integers(0, layers)))),
        adapter_dim=draw(st.integers(1, 9)),
    )


def trees_of(program: Program, seed: int) -> list[Any]:
    """Random arrays of a stage."""
    return [random_component(program.shape, kind, seed) for kind in program.kinds]


def results(
    backend: Backend, program: Program, x: np.ndarray, *, stacked: bool = False
) -> np.ndarray:
    """With the weights of seed 0 for all rows, or of one seed for each."""
    rows = len(x)
    weights = [
        tuple(
            backend.place(kind, tree)
            for kind, tree in zip(program.kinds, trees_of(program, seed), strict=True)
        )
        for seed in range(rows if stacked else 1)
    ]
    run = backend.compile((program,), rows, stacked=stacked).run
    found = np.array(run(weights, x))
    for _ in range(3):  # a wrong kernel may be right once
        np.testing.assert_array_equal(np.asarray(run(weights, x)), found)
    return found


def apart(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one - other).max() / np.abs(one).max())


def inputs(program: Program, rows: int, seed: int = 0) -> np.ndarray:
    shape = (rows, *program.row_shape)
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("examples", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_both_give_equal_answers(backends: tuple[Backend, Backend], examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(arch=architectures(), rows=st.integers(1, 4))
    def check(arch: Architecture, rows: int) -> None:
        require_equal_answers(backends, arch, rows)

    check()


def require_equal_answers(backends: tuple[Backend, Backend], arch: Architecture, rows: int) -> None:
    programs = [program for head in (True, False) for program, _ in stages_of(arch, head=head)]
    programs.append(features_program(programs[-1], arch.tokens))  # of a depth before the last
    for program in dict.fromkeys(programs):
        x = inputs(program, rows)
        for stacked in {False, program.stackable and rows > 1}:
            one, other = (results(backend, program, x, stacked=stacked) for backend in backends)
            assert one.shape == (rows, *program.result_shape)
            assert apart(one, other) < BOUND


@pytest.mark.parametrize("grid", [1, 2, 3, 4])
def test_every_small_grid_gives_equal_answers(backends: tuple[Backend, Backend], grid: int) -> None:
    for rows in (1, 4):
        require_equal_answers(backends, replace(TINY, image_size=TINY.patch_size * grid), rows)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["Ti", "S", "B"])
def test_real_sizes_give_equal_answers(backends: tuple[Backend, Backend], size: str) -> None:
    for grid in (1, 2, 3, 5, 7, 14):
        arch = Architecture.named(
            size, patch_size=16, image_size=16 * grid, num_layers=2, num_classes=10, adapters=(1,)
        )
        for rows in (1, 2, 4, 8):
            require_equal_answers(backends, arch, rows)


@pytest.mark.parametrize("patch", [8, 16])
def test_kernels_in_blocks_give_equal_answers(
    backends: tuple[Backend, Backend], patch: int
) -> None:
    """As large ones are laid out: the embedding's only where patches are large."""
    arch = Architecture(
        width=512,
        heads=8,
        mlp_dim=768,
        patch_size=patch,
        image_size=2 * patch,
        num_layers=1,
        num_classes=5,
    )
    for program in dict.fromkeys(program for program, _ in stages_of(arch)):
        x = inputs(program, rows=3)
        assert apart(*(results(backend, program, x) for backend in backends)) < BOUND


def test_a_stacked_program_equals_one_call_for_each(backends: tuple[Backend, Backend]) -> None:
    arch = replace(TINY, adapters=(0,), adapter_dim=8)
    for backend in backends:
        for program in (program for program, _ in stages_of(arch) if program.stackable):
            x = inputs(program, rows=3)
            together = results(backend, program, x, stacked=True)
            for row in range(3):
                trees = trees_of(program, row)
                placed = tuple(map(backend.place, program.kinds, trees))
                alone = backend.compile((program,), 1, stacked=False).run(
                    [placed], x[row : row + 1]
                )
                assert apart(together[row : row + 1], np.asarray(alone)) < BOUND


def test_a_result_keeps_its_bits_at_every_place_and_beside_any_mates(
    backends: tuple[Backend, Backend],
) -> None:
    """At a width and a number of tokens at which all cores take part."""
    arch = Architecture.named("Ti", patch_size=16, image_size=80, num_layers=1, num_classes=10)
    for backend in backends:
        for program, _ in stages_of(arch):
            mine, found = inputs(program, 1, seed=99)[0], []
            weights = [tuple(map(backend.place, program.kinds, trees_of(program, 0)))]
            run = backend.compile((program,), 8, stacked=False).run
            for place in range(8):
                x = inputs(program, 8, seed=place)
                x[place] = mine
                found.append(np.asarray(run(weights, x))[place])
            assert all(np.array_equal(one, found[0]) for one in found), (backend.name, program)


def test_placed_arrays_are_the_programs_only_weights(compilations: str) -> None:
    """One program, two components; and a result outlives the next call."""
    backend = OpenVinoBackend(compilations, 2)
    program, _ = stages_of(TINY)[1]
    run = backend.compile((program,), 1, stacked=False).run
    x = inputs(program, 1)
    first, second = ([(backend.place("encoderblock", trees_of(program, i)[0]),)] for i in (1, 2))
    one = run(first, x)
    kept = one.copy()
    assert apart(one, run(second, x)) > 0.01
    assert np.array_equal(one, kept)
    assert np.array_equal(run(first, x), kept)


def test_runs_compute_in_the_threads_that_call(backends: tuple[Backend, Backend]) -> None:
    """In two at the same time, and with equal answers: no run is handed over to another thread."""
    backend = backends[1]
    (program, _), *_ = stages_of(replace(TINY, width=192, heads=3, mlp_dim=768))[1:]
    weights = [(backend.place("encoderblock", *trees_of(program, 0)),)]
    x = inputs(program, 4)
    run = backend.compile((program,), 4, stacked=False).run
    started = threading.Barrier(2, timeout=PATIENCE_S)

    def several() -> tuple[float, np.ndarray]:
        started.wait()
        before = time.thread_time()
        found = [np.array(run(weights, x)) for _ in range(200)]
        seconds = time.thread_time() - before
        assert all(np.array_equal(one, found[0]) for one in found)
        return seconds, found[0]

    def share() -> float:
        before = native_seconds()
        with ThreadPoolExecutor(2) as pool:
            (mine, one), (yours, other) = pool.map(lambda _: several(), range(2))
            after = native_seconds()
        assert np.array_equal(one, other)
        elsewhere = sum(seconds - before.get(thread, 0.0) for thread, seconds in after.items())
        return (mine + yours) / (mine + yours + elsewhere)

    # A library's threads may have work now and then.
    assert any(share() > 0.9 for _ in range(20))


def native_seconds() -> dict[int, float]:
    """Processor time of each thread that Python did not start: those of libraries."""
    own = {thread.native_id for thread in threading.enumerate()}
    threads = psutil.Process().threads()
    return {one.id: one.user_time + one.system_time for one in threads if one.id not in own}


def compiled_anew(folder: Path) -> Compiled:
    program, _ = stages_of(TINY)[1]
    return OpenVinoBackend(str(folder), 2).compile((program,), 2, stacked=False)


def test_a_program_is_compiled_once_and_then_loaded(tmp_path: Path) -> None:
    assert not compiled_anew(tmp_path).cached
    assert compiled_anew(tmp_path).cached


@pytest.mark.parametrize("damage", [b"", b"not a program", b"\0" * 5000])
def test_a_damaged_file_of_a_program_is_compiled_again(tmp_path: Path, damage: bytes) -> None:
    compiled_anew(tmp_path)
    (file,) = (tmp_path / "openvino").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage or whole[:-1])
    assert not compiled_anew(tmp_path).cached
    assert compiled_anew(tmp_path).cached


@pytest.mark.parametrize("blob", [b"", b"of another version" * 100])
def test_a_whole_file_that_openvino_does_not_take_is_replaced(
    tmp_path: Path, blob: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    compiled_anew(tmp_path)
    (file,) = (tmp_path / "openvino").iterdir()
    file.write_bytes(hashlib.sha256(blob).digest() + blob)
    assert not compiled_anew(tmp_path).cached
    assert str(file) in caplog.text
    assert compiled_anew(tmp_path).cached


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "openvino").write_text("a file where the folder should be")
    assert not compiled_anew(tmp_path).cached


def test_openvino_reports_nothing_and_leaves_the_locale_alone(tmp_path: Path) -> None:
    """Its telemetry would be imported and would fork; its own cache would change the locale."""
    code = f"""
import locale, sys
from concurrent.futures import ThreadPoolExecutor
from service.compute.backends.openvino_backend import OpenVinoBackend
from service.compute.paths import stages_of
from tests.service.servers import ROOT
from tests.service.systems import TINY
before = locale.setlocale(locale.LC_ALL)
backend = OpenVinoBackend({str(tmp_path)!r}, 2)
programs = [program for program, _ in stages_of(TINY)] * 4
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda program: backend.compile((program,), 1, stacked=False), programs))
assert locale.setlocale(locale.LC_ALL) == before
assert sys.modules["openvino_telemetry"] is None
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class Meeting:
    """A lock that lets two threads go on only together, until JAX has decided about its cache."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._both = threading.Barrier(2, timeout=PATIENCE_S)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        undecided = not jax_cache._cache_checked
        self._lock.release()
        if undecided and threading.current_thread() is not threading.main_thread():
            self._both.wait()


def test_programs_that_are_compiled_at_once_are_all_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JAX tells a thread that asks while another one decides that there is no cache."""
    programs = [program for program, _ in stages_of(TINY)][:2]
    for program in programs:  # it compiles small things of its own, under a lock
        for kind in program.kinds:
            shapes(program.shape, kind)

    def cached() -> list[bool]:
        backend = JaxBackend(str(tmp_path))
        with ThreadPoolExecutor(2) as pool:
            made = pool.map(lambda one: backend.compile((one,), 1, stacked=False), programs)
            found = [one.cached for one in made]
        backend.close()
        return found

    monkeypatch.setattr(
        jax_cache, "_cache_initialized_mutex", Meeting(jax_cache._cache_initialized_mutex)
    )
    assert cached() == [False, False]
    assert cached() == [True, True]
