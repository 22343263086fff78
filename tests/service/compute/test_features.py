"""Features of any depth are those of the network itself, and share what classification computes."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pytest

from service.compute.features import FeaturePaths, depth_of
from service.compute.paths import LoadedPath
from service.errors import BadParameter, Told, Unavailable
from service.request import Features
from tests.service.compute.engines import BOUND, System, distance, row
from tests.service.systems import TINY, multipath, publish, tree_of
from vit import Architecture
from vit.components import apply
from vit.forward import fold

SHALLOW = replace(TINY, num_layers=1)
ARCHS = {
    "token": replace(TINY, num_layers=3),
    "adapted": replace(TINY, adapters=(0, 1), adapter_dim=8),
    "flat": replace(TINY, num_layers=0),
    "mean": replace(SHALLOW, pooling="mean"),
    "two": replace(SHALLOW, prefix_tokens=2, pooling="two_tokens"),
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[System]:
    made = System(tmp_path_factory.mktemp("store"), compilations, "openvino")
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def paths(system: System) -> dict[str, LoadedPath]:
    found = {name: system.load(publish(system.store, name, arch)) for name, arch in ARCHS.items()}
    own = {"encoderblock_1": 7}
    return found | {"other": system.load(publish(system.store, "other", ARCHS["token"], own=own))}


def embedded(
    system: System, path: LoadedPath, depth: int | None = None, *, alone: bool = True
) -> LoadedPath:
    found = FeaturePaths(system.engine.programs)
    return asyncio.run(found.of(path, Features(depth, alone)))


@partial(jax.jit, static_argnums=0)
def of_every_depth(arch: Architecture, params: Any, images: Any) -> list[Any]:
    """The norm and pooling of what the network's first blocks make of images."""
    names = arch.component_names
    found = []
    for depth in range(arch.num_layers + 1):
        last = f"encoderblock_{depth - 1}" if depth else "posembed_input"
        tokens = fold(arch, names[: names.index(last) + 1], params, images)
        found.append(apply(arch, "encoder_norm", params["encoder_norm"], tokens))
    return found


@pytest.mark.parametrize("name", ARCHS)
def test_of_every_depth_they_are_the_networks_own(
    system: System, paths: dict[str, LoadedPath], name: str
) -> None:
    path = paths[name]
    arch = Architecture.from_json(path.published.path.architecture)
    images = row(path, 1).images[arch.image_size].pixels[None]
    expected = of_every_depth(arch, tree_of(system.store, path.published), images)
    for depth in [*range(arch.num_layers + 1), None]:
        part = embedded(system, path, depth)
        assert depth_of(part) == (arch.num_layers if depth is None else depth)
        (found,) = system.engine.run([row(part, 1)])
        assert found.shape == (arch.features,)
        assert distance([found], list(expected[depth_of(part)])) < BOUND


@pytest.mark.parametrize("name", ["token", "mean"])
def test_the_head_reads_those_of_all_blocks(
    system: System, paths: dict[str, LoadedPath], name: str
) -> None:
    (features,) = system.engine.run([row(embedded(system, paths[name]), 1)])
    (logits,) = system.engine.run([row(paths[name], 1)])
    head = tree_of(system.store, paths[name].published)["head"]
    assert distance([features @ head["kernel"] + head["bias"]], [logits]) < BOUND


def test_one_row_gives_logits_and_features(system: System, paths: dict[str, LoadedPath]) -> None:
    path = paths["token"]
    alone = [system.engine.run([row(one, 1)])[0] for one in (path, embedded(system, path, 1))]
    before = system.count("munet_rows_shared_total")
    (both,) = system.engine.run([row(embedded(system, path, 1, alone=False), 1)])
    assert system.count("munet_rows_shared_total") - before == 2  # stem and first block
    assert distance([both[:3], both[3:]], alone) < BOUND


def test_what_they_share_with_rows_that_are_classified_is_computed_once(
    system: System, paths: dict[str, LoadedPath]
) -> None:
    """Also with those of another task, and of another depth."""
    one, other = paths["token"], paths["other"]  # stem, three blocks, tail
    early, late = embedded(system, one, 1), embedded(system, other, 2)
    rows = [row(one, 1), row(early, 1), row(other, 1), row(late, 1)]
    alone = [system.engine.run([each])[0] for each in rows]
    before = system.count("munet_rows_shared_total")
    answers = system.engine.run(rows)
    assert system.count("munet_rows_shared_total") - before == 2 + 2 + 3
    assert distance(answers, alone) < BOUND


def test_with_other_images_they_share_calls(system: System, paths: dict[str, LoadedPath]) -> None:
    """Three rows in one bucket of four for the stem and a block, with one row of padding each."""
    early = embedded(system, paths["token"], 1)
    system.engine.programs.wait()
    rows = [row(paths["other"], 1), row(early, 2), row(early, 3)]
    alone = [system.engine.run([each])[0] for each in rows]
    before = system.count("munet_batch_padded_rows_total")
    assert distance(system.engine.run(rows), alone) < BOUND
    assert system.count("munet_batch_padded_rows_total") - before == 2


def test_tasks_that_differ_in_their_last_norm_share_its_call(system: System) -> None:
    own = [
        system.load(publish(system.store, f"own{seed}", own={"encoder_norm": seed}))
        for seed in range(4)
    ]
    rows = [row(embedded(system, path), seed) for seed, path in enumerate(own)]
    system.engine.programs.wait()
    alone = [system.engine.run([each])[0] for each in rows]
    assert distance(system.engine.run(rows), alone) < BOUND


def test_no_depth_makes_programs_of_its_own(system: System, paths: dict[str, LoadedPath]) -> None:
    """One norm of all tokens and one of the class token alone serve every depth."""
    for depth in (0, 3):
        embedded(system, paths["token"], depth)
    system.engine.programs.wait()
    before = system.programs, system.fused
    for depth in range(3):
        embedded(system, paths["token"], depth)
        embedded(system, paths["adapted"], depth)
    system.engine.programs.wait()
    assert (system.programs, system.fused) == before


@pytest.mark.parametrize(("name", "depth"), [("token", 4), ("flat", 1), ("mean", 999_999_999)])
def test_a_depth_that_the_network_has_not_is_refused(
    system: System, paths: dict[str, LoadedPath], name: str, depth: int
) -> None:
    blocks = ARCHS[name].num_layers
    with pytest.raises(BadParameter, match=f"from 0 to {blocks}, .* found {depth}"):
        embedded(system, paths[name], depth)


def test_a_version_of_several_networks_has_none(
    system: System, paths: dict[str, LoadedPath]
) -> None:
    parts = [paths[name].published for name in ("token", "other")]
    path = system.load(system.store.publish(multipath(system.store, "mixed", parts)))
    with pytest.raises(BadParameter, match="one network, found 'mixed', which mixes 2"):
        embedded(system, path)


def test_less_of_the_network_is_less_work(system: System, paths: dict[str, LoadedPath]) -> None:
    costs = [embedded(system, paths["token"], depth).cost for depth in range(4)]
    assert costs == sorted(costs)
    assert 0 < costs[0] < costs[3] < paths["token"].cost
    assert embedded(system, paths["token"], 0, alone=False).cost == paths["token"].cost


def test_the_version_is_held_while_its_features_are_computed(system: System) -> None:
    """So it counts as used, and nothing is evicted under a row."""
    path = system.load(publish(system.store, "held", own={"encoderblock_0": 5}))
    held, part = weakref.ref(path), embedded(system, path)
    del path
    gc.collect()
    assert held() is part.whole
    del part
    assert held() is None


def test_without_memory_for_the_last_stage_it_is_for_later(tmp_path: Path) -> None:
    class Full:
        def require_room(self, size: int) -> None:
            raise Told("no room")

        def has_spare(self, size: int) -> bool:
            return False

    system = System(tmp_path, str(tmp_path / "compilations"), "openvino")
    try:
        path = system.load(publish(system.store, "plain"))
        unbounded, system.engine.programs.memory = system.engine.programs.memory, Full()
        with pytest.raises(Unavailable, match="features of task 'plain': no room"):
            embedded(system, path)
        system.engine.programs.memory = unbounded
        assert depth_of(embedded(system, path)) == 2
    finally:
        system.engine.close()
