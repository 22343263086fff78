"""Laws of multipath rows in the engine: each sub-path is a walk like any other, then they mix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from model_store import Published
from service.compute.paths import LoadedPath, Row
from tests.evolution import numpy_vit
from tests.service.compute.engines import BOUND, MAX_ROWS, System, distance, no_garbage, row
from tests.service.systems import TINY, multipath, publish, tree_of
from vit.router import mix

MIX = jax.jit(mix)
FINE = replace(TINY, patch_size=4, image_size=12, num_classes=5, adapters=(1,), adapter_dim=8)


@pytest.fixture(scope="module", params=["openvino", pytest.param("jax", marks=pytest.mark.slow)])
def system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, compilations: str
) -> Iterator[System]:
    made = System(tmp_path_factory.mktemp("store"), compilations, request.param)
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def tasks(system: System) -> dict[str, Published]:
    """Single paths, and versions that mix two or three of them."""
    store = system.store
    found = {
        "main": publish(store, "main"),
        "other": publish(store, "other", own={"encoderblock_1": 1}),
        "fine": publish(store, "fine", FINE),
        "flat": publish(store, "flat", replace(TINY, num_layers=0)),
    }
    for name, parts, heads in (
        ("two", ("main", "other"), (0,)),
        ("three", ("main", "fine", "flat"), (0,)),
        ("logits", ("main", "other", "fine"), (0, 1, 2)),
    ):
        found[name] = store.publish(multipath(store, name, [found[p] for p in parts], heads=heads))
    return found


@pytest.fixture(scope="module")
def paths(system: System, tasks: dict[str, Published]) -> dict[str, LoadedPath]:
    return {name: system.load(published) for name, published in tasks.items()}


def expected(system: System, row: Row) -> np.ndarray:
    if row.path.mixer is None:
        return system.expected(row)
    published, answers = row.path.published, []
    tree = tree_of(system.store, published)
    for subpath in published.path.subpaths:
        pixels = row.images[subpath["input"]["size"]].pixels[None].astype(np.float64)
        params = {part: tree[name] for part, name in subpath["components"].items()}
        answer = numpy_vit.features(params, pixels)
        answers.append(numpy_vit.dense(answer, params["head"]) if "head" in params else answer)
    return np.asarray(MIX(tree, answers))[0]


def test_equals_the_mixture_of_evolution_alone_and_in_any_batch(
    system: System, paths: dict[str, LoadedPath]
) -> None:
    rows = [row(path, seed) for seed in (1, 2) for path in paths.values()]
    rows += [row(paths["three"], seed) for seed in range(3, 4 + MAX_ROWS)]
    wanted = [expected(system, r) for r in rows]
    assert distance([system.engine.run([r])[0] for r in rows], wanted) < BOUND
    assert distance(system.engine.run(rows), wanted) < BOUND
    assert distance(system.engine.run(rows[::-1])[::-1], wanted) < BOUND


def test_within_a_bucket_nothing_depends_on_the_batch_mates(
    system: System, paths: dict[str, LoadedPath]
) -> None:
    mine, found = row(paths["two"], 1), []
    for place in range(MAX_ROWS):
        rows = [row(paths["two"], 100 + 10 * place + i) for i in range(MAX_ROWS)]
        rows[place] = mine
        found.append(system.engine.run(rows)[place])
    assert all(np.array_equal(one, found[0]) for one in found)


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        # stages: stem, block 0, block 1, tail
        (["two"], 2),  # its own paths part at block 1
        (["two", "main"], 2 + 4),  # the whole main path
        (["two", "other"], 2 + 3),  # whose head the features do without
        (["logits", "other"], 2 + 4),
        (["three", "fine"], 1 + 4),  # stem of the flat one; of the fine one all but the head
        (["two", "two"], 2 + 2 * 4),
    ],
)
def test_what_sub_paths_share_with_tasks_and_each_other_is_computed_once(
    system: System, paths: dict[str, LoadedPath], names: list[str], shared: int
) -> None:
    before = system.count("munet_rows_shared_total")
    system.engine.run([row(paths[name], 1) for name in names])
    assert system.count("munet_rows_shared_total") - before == shared


def test_components_are_in_memory_once_and_go_with_the_last_that_uses_them(
    system: System, paths: dict[str, LoadedPath]
) -> None:
    main, other, two = (paths[name] for name in ("main", "other", "two"))
    assert two.walks[0].stages == main.walks[0].stages
    assert two.walks[1].stages[:-1] == other.walks[0].stages[:-1]
    assert two.cost == pytest.approx(main.cost + other.cost, rel=0.1)  # it has one head less
    before = system.residency.usage()
    (copy,) = (
        system.load(p) for p in [system.store.publish(replace(two.published.path, task="c"))]
    )
    assert system.residency.usage() == before
    del copy
    assert system.residency.usage() == before


def test_loading_and_running_more_of_them_compiles_nothing(
    system: System, tasks: dict[str, Published], paths: dict[str, LoadedPath]
) -> None:
    before = system.programs
    for i, parts in enumerate((["fine", "main", "flat"], ["other", "fine"])):
        found = multipath(system.store, f"more/{i}", [tasks[part] for part in parts])
        path = system.load(system.store.publish(found))
        for count in (1, MAX_ROWS + 1):
            system.engine.run([row(path, seed) for seed in range(count)])
    assert system.programs == before


def test_nothing_of_a_batch_outlives_it(system: System, paths: dict[str, LoadedPath]) -> None:
    with no_garbage():
        assert len(system.engine.run([row(path, 1) for path in paths.values()])) == len(paths)


def resized(tree: Any, part: str, shape: tuple[int, ...]) -> Any:
    return {**tree, "Dense_0": {**tree["Dense_0"], part: np.zeros(shape, np.float32)}}


@pytest.mark.parametrize(
    ("name", "shape"), [("multipath_router", (3, 1)), ("head_adapter_path_1", (31, 3))]
)
def test_a_mixer_of_a_wrong_shape_is_refused_when_warmed(
    system: System, tasks: dict[str, Published], name: str, shape: tuple[int, ...]
) -> None:
    path = tasks["two"].path
    wrong = system.store.put(
        resized(system.store.component(path.components[name]), "kernel", shape)
    )
    bad = replace(path, task="bad", components={**path.components, name: wrong})
    with pytest.raises(ValueError, match="router and connectors"):
        system.load(system.store.publish(bad))
