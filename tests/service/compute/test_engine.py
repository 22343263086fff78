"""Laws of the engine: what a row gets depends on its image and its path, and on nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store import ModelStore, Published
from service.compute.backends import Compiled
from service.compute.paths import LoadedPath
from service.compute.programs import split
from tests.service.compute.engines import BOUND, MAX_ROWS, System, distance, no_garbage, row
from tests.service.systems import TINY, publish


@pytest.fixture(scope="module", params=["jax", "openvino"])
def system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, compilations: str
) -> Iterator[System]:
    made = System(tmp_path_factory.mktemp("store"), compilations, request.param)
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def paths(system: System) -> list[LoadedPath]:
    """Paths of several depths, adapters, class counts and image sizes over shared components."""
    deep = replace(TINY, num_layers=3, num_classes=10)
    adapted = replace(TINY, adapters=(1,), adapter_dim=8, num_classes=17)
    fine = replace(TINY, patch_size=4, image_size=12)
    return [
        system.load(publish(system.store, name, arch, own=own))
        for name, arch, own in (
            ("plain", TINY, {}),
            ("last_block", TINY, {"encoderblock_1": 1}),
            ("first_block", TINY, {"encoderblock_0": 2}),
            ("other_root", TINY, {"embedding": 3}),
            ("deep", deep, {}),
            ("adapted", adapted, {}),
            ("flat", replace(TINY, num_layers=0), {}),
            ("fine", fine, {}),
        )
    ]


def test_equals_the_network_of_evolution(system: System, paths: list[LoadedPath]) -> None:
    rows = [row(path, seed) for seed, path in enumerate(paths)]
    answers = system.engine.run(rows)
    assert [len(answer) for answer in answers] == [len(path.labels) for path in paths]
    assert distance(answers, [system.expected(r) for r in rows]) < BOUND


@pytest.mark.parametrize("popularity", ["identical", "distinct", "skewed"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_batched_with_strangers_equals_alone(
    system: System, paths: list[LoadedPath], popularity: str, count: int
) -> None:
    rng = np.random.default_rng(count)
    chosen = {
        "identical": [0] * count,
        "distinct": list(range(count)),
        "skewed": [min(int(i), 7) for i in rng.zipf(1.5, count) - 1],
    }[popularity]
    rows = [row(paths[index], seed) for seed, index in enumerate(chosen)]
    together = system.engine.run(rows)
    alone = [system.engine.run([r])[0] for r in rows]
    assert distance(together, alone) < BOUND


def test_order_within_a_batch_changes_nothing(system: System, paths: list[LoadedPath]) -> None:
    rows = [row(path, 1) for path in paths]
    forwards = system.engine.run(rows)
    backwards = system.engine.run(rows[::-1])[::-1]
    assert distance(forwards, backwards) < BOUND


def test_within_a_bucket_nothing_depends_on_the_batch_mates(
    system: System, paths: list[LoadedPath]
) -> None:
    """Bit for bit, at every place in the batch."""
    mine = row(paths[0], 1)
    found = []
    for place in range(MAX_ROWS):
        rows = [row(paths[0], 100 + 10 * place + i) for i in range(MAX_ROWS)]
        rows[place] = mine
        found.append(system.engine.run(rows)[place])
    assert all(np.array_equal(one, found[0]) for one in found)


def test_more_rows_than_the_largest_program(system: System, paths: list[LoadedPath]) -> None:
    rows = [row(paths[0], seed) for seed in range(2 * MAX_ROWS + 3)]
    alone = [system.engine.run([r])[0] for r in rows]
    assert distance(system.engine.run(rows), alone) < BOUND


def test_equal_image_and_prefix_are_computed_once(system: System, paths: list[LoadedPath]) -> None:
    by_name = {path.published.task: path for path in paths}
    plain, last = by_name["plain"], by_name["last_block"]
    first, other = by_name["first_block"], by_name["other_root"]
    # stages: stem, block 0, block 1, tail
    for rows, shared in (
        ([row(plain, 1), row(plain, 2)], 0),  # other images
        ([row(plain, 1), row(plain, 1)], 4),  # all of it
        ([row(plain, 1), row(last, 1)], 2),  # up to the block that differs
        ([row(plain, 1), row(first, 1)], 1),  # equal blocks behind a difference are not equal
        ([row(plain, 1), row(other, 1)], 0),
        ([row(plain, 1), row(last, 1), row(plain, 1), row(first, 2)], 6),
    ):
        before = system.count("munet_rows_shared_total")
        answers = system.engine.run(rows)
        assert system.count("munet_rows_shared_total") - before == shared
        alone = [system.engine.run([r])[0] for r in rows]
        assert distance(answers, alone) < BOUND


def test_strangers_share_calls_where_their_paths_share_components(
    system: System, paths: list[LoadedPath]
) -> None:
    """Three rows in one bucket of four: one row of padding per call of all three."""
    by_name = {path.published.task: path for path in paths}
    names = ("plain", "last_block", "first_block")
    before = system.count("munet_batch_padded_rows_total")
    system.engine.run([row(by_name[name], seed) for seed, name in enumerate(names)])
    padded = system.count("munet_batch_padded_rows_total") - before
    # stem 3 of 4; block 0: 2 and 1; block 1: 2 and 1; tails, each with a head of its own, 3 of 4
    assert padded == 2


def test_paths_of_unequal_depth_meet_at_equal_components(
    system: System, paths: list[LoadedPath]
) -> None:
    """An adapter before block 1 delays a row; the others wait for it at block 1."""
    by_name = {path.published.task: path for path in paths}
    names = ("plain", "adapted", "deep", "deep")
    rows = [row(by_name[name], seed) for seed, name in enumerate(names)]
    before = system.count("munet_batch_padded_rows_total")
    system.engine.run(rows)
    assert system.count("munet_batch_padded_rows_total") == before


def test_adapters_and_heads_of_many_tasks_run_in_one_call(system: System) -> None:
    arch = replace(TINY, adapters=(0, 1), adapter_dim=8)
    names = ("residual_adapter_0", "residual_adapter_1", "head")
    rows = [
        row(
            system.load(publish(system.store, f"own/{i}", arch, own=dict.fromkeys(names, i))),
            seed=i,
        )
        for i in range(1, 4)
    ]
    before = system.count("munet_batch_padded_rows_total")
    answers = system.engine.run(rows)
    assert system.count("munet_batch_padded_rows_total") - before == 6  # each stage: 3 rows of 4
    assert distance(answers, [system.expected(r) for r in rows]) < BOUND


@pytest.mark.parametrize("tokens", [1, 5, 26, 197])
def test_rows_are_split_into_buckets_that_waste_little(tokens: int) -> None:
    """Where a row is much work none is added; where it is little, few calls are made."""
    for rows in range(1, 70):
        found = split((1, 2, 4, 8, 16, 32), tokens, rows)
        assert sum(found) >= rows > sum(found[:-1])
        if tokens > 100:
            assert sum(found) == rows


def test_a_batch_of_many_calls_is_split() -> None:
    assert split((1,), 197, 1024) == (1,) * 1024
    assert split((1, 2, 4), 50, 1023) == (*(4,) * 255, 2, 1)


def test_rows_that_part_and_meet_again_get_their_own_tokens(system: System) -> None:
    """Pairs change partners between the blocks, each row keeping its place in its pair."""
    blocks = ((1, 3), (1, 4), (2, 4), (2, 3))
    rows = [
        row(system.load(publish(system.store, f"pair/{first}{second}", own=own)), seed)
        for seed, (first, second) in enumerate(blocks)
        for own in [{"encoderblock_0": first, "encoderblock_1": second}]
    ]
    assert distance(system.engine.run(rows), [system.expected(r) for r in rows]) < BOUND


def test_paths_that_cross_in_opposite_orders_still_run(system: System) -> None:
    swapped = publish(system.store, "swapped")
    block = swapped.path.components
    first, second = block["encoderblock_0"], block["encoderblock_1"]
    crossed = {**block, "encoderblock_0": second, "encoderblock_1": first}
    other = system.store.publish(replace(swapped.path, components=crossed))
    rows = [row(system.load(swapped), 1), row(system.load(other), 2)]
    answers = system.engine.run(rows)
    assert distance(answers, [system.expected(r) for r in rows]) < BOUND


def test_programs_depend_neither_on_tasks_nor_on_depth(
    system: System, paths: list[LoadedPath]
) -> None:
    before = system.programs
    for depth in (1, 4):
        for classes in (2, 16):
            arch = replace(TINY, num_layers=depth, num_classes=classes)
            for own in range(3):
                name = f"more/{depth}.{classes}.{own}"
                path = system.load(publish(system.store, name, arch, own={"embedding": own}))
                system.engine.run([row(path, seed) for seed in range(own + 1)])
    assert system.programs == before


def test_warming_compiles_every_bucket_and_running_none(tmp_path: Path, compilations: str) -> None:
    system = System(tmp_path, compilations)
    path = system.load(publish(system.store, "a"))
    buckets = len(system.engine.programs.buckets)
    tails = 2 * buckets - 1  # with a head for all rows, and one for each where there are several
    assert system.programs == 3 * buckets + tails  # stem, block, last block
    for count in range(1, MAX_ROWS + 1):
        system.engine.run([row(path, seed) for seed in range(count)])
    assert system.programs == 3 * buckets + tails
    system.load(publish(system.store, "b", replace(TINY, num_classes=17)))
    assert system.programs == 3 * buckets + 2 * tails  # a wider head
    system.engine.close()


def test_loads_at_the_same_time_wait_for_one_compilation(tmp_path: Path, compilations: str) -> None:
    system = System(tmp_path, compilations)
    versions = [publish(system.store, name, own={"head": n}) for n, name in enumerate("abcdefgh")]
    with ThreadPoolExecutor(len(versions)) as pool:
        list(pool.map(system.load, versions))
    buckets = len(system.engine.programs.buckets)
    assert system.programs == 5 * buckets - 1  # as of one of them
    system.engine.close()


def test_a_restart_compiles_nothing(tmp_path: Path) -> None:
    for backend in ("jax", "openvino"):
        sources = []
        for start in ("first", "second"):
            system = System(tmp_path / backend / start, str(tmp_path / "programs"), backend)
            system.load(publish(system.store, "a"))
            sources.append(
                [system.count("munet_compilations_total", source=s) for s in ("compiler", "cache")]
            )
            system.engine.close()
        (compiled, none), (none_again, loaded) = sources
        assert compiled == loaded > 0 == none == none_again


def test_nothing_of_a_batch_outlives_it(tmp_path: Path, compilations: str) -> None:
    """Without a garbage collection: components go with the last row, and so do activations."""
    system = System(tmp_path, compilations)
    paths = [system.load(publish(system.store, name)) for name in ("a", "b")]
    with no_garbage():
        answers = system.engine.run([row(path, 1) for path in paths])
        del paths
        assert system.residency.usage().components == 0
    assert len(answers) == 2
    system.engine.close()


def publish_malformed(store: ModelStore) -> Published:
    """A path whose first block is wider than its architecture says."""
    good = publish(store, "good").path
    wide = publish(store, "wide", replace(TINY, mlp_dim=128)).path
    block = wide.components["encoderblock_0"]
    components = {**good.components, "encoderblock_0": block}
    return store.publish(replace(good, task="bad", components=components))


def test_components_of_a_wrong_shape_are_refused_when_warmed(
    system: System, paths: list[LoadedPath]
) -> None:
    bad = publish_malformed(system.store)
    with pytest.raises(ValueError, match="encoderblock"):
        system.load(bad)


def test_a_malformed_task_fails_alone_while_its_programs_first_compile(
    tmp_path: Path, compilations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling, finish = threading.Event(), threading.Event()

    def held_up(*arguments: Any, **options: Any) -> Compiled:
        compiling.set()
        assert finish.wait(60)
        return compile_(*arguments, **options)

    system = System(tmp_path, compilations)
    compile_ = system.engine._backend.compile
    monkeypatch.setattr(system.engine._backend, "compile", held_up)
    bad = publish_malformed(system.store)
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(system.load, system.store.resolve("good"))
        try:
            assert compiling.wait(60)
            with pytest.raises(ValueError, match="expected arrays"):
                pool.submit(system.load, bad).result(60)
        finally:
            finish.set()
        mine = row(good.result(60), 1)
    assert distance(system.engine.run([mine]), [system.expected(mine)]) < BOUND
    system.engine.close()


def test_a_malformed_task_that_comes_first_decides_nothing(
    tmp_path: Path, compilations: str
) -> None:
    """Its blocks would run, too: what is right is the architecture's word, not the first's."""
    system = System(tmp_path, compilations)
    bad = publish_malformed(system.store)
    with pytest.raises(ValueError, match="expected arrays"):
        system.load(bad)
    mine = row(system.load(system.store.resolve("good")), 1)
    assert distance(system.engine.run([mine]), [system.expected(mine)]) < BOUND
    system.engine.close()
