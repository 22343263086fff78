"""How multipath children are sampled: their paths, hyperparameters, routers and connectors."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evolution.multipath.frozen_paths import parts_of
from evolution.multipath.sampling import (
    Origin,
    candidates,
    main_paths,
    make_child,
    sample_own,
    sample_paths,
)
from evolution.population import ROOT, Path
from evolution.state import StateError
from tests.evolution.multipath_systems import EXPERIMENT, OWNER, System, kind, system
from tests.evolution.systems import ROOT as ARCHITECTURE
from vit.mixer import ROUTER, connector_name, init_router

ORIGIN = Origin(OWNER, "toy/a", 3, ARCHITECTURE)
DATA: dict[str, Any] = {k: v for k, v in EXPERIMENT.defaults.items() if k.startswith("ds_")}
# Nothing mutates.
STILL = replace(EXPERIMENT, defaults={**EXPERIMENT.defaults, "_mu_": 0.0}, ranges={})


@pytest.fixture
def made(tmp_path) -> System:
    """Agents of three public tasks, a private one and one of 1,000 examples."""
    found = system(tmp_path)
    for seed, task in enumerate(("toy/a", "toy/b", "toy/c", "dtd/1k"), 1):
        found.publish(f"vit/{task}", task, seed)
    found.publish("vit/toy/d", "toy/d", 9, private=True)
    return found


def child_of(made: System, seed: int, experiment=STILL) -> tuple[Path, Path]:
    return make_child(made.population, ORIGIN, experiment, DATA, np.random.default_rng(seed))


def keep(made: System, child: Path) -> None:
    child.quality = 0.5
    made.population.paths.setdefault(OWNER, []).append(child)


def test_a_first_child_mixes_the_main_path_and_one_that_is_drawn(made):
    child, parent = child_of(made, 0)
    main, other = parts_of(child)
    assert parent.owner == "vit/toy/a:toy/a" and parent.children_per_task == {}
    assert (main.owner, main.network.has_head) == ("vit/toy/a:toy/a", True)
    assert not other.network.has_head
    assert child.hyperparameters == {**STILL.defaults, **DATA}
    assert "ds_image_size" not in child.hyperparameters
    names = [c.name for c in child.components]
    assert names[:3] == ["path_0/embedding", "path_0/cls", "path_0/posembed_input"]
    assert names[-2:] == [ROUTER, connector_name(1)]
    assert "path_0/head" in names and "path_1/head" not in names
    assert [c.trainable for c in child.components] == [False] * (len(names) - 2) + [True] * 2
    router = child.named(ROUTER)
    assert router is not None
    expected = init_router(3, 2, 0.8)["Dense_0"]["bias"]
    np.testing.assert_array_equal(router.params["Dense_0"]["bias"], expected)


def test_further_paths_are_public_and_of_no_vtab_1k_task_but_may_be_the_root(made):
    drawn = {parts_of(child_of(made, seed)[0])[1].task for seed in range(40)}
    assert drawn == {ROOT, "toy/b", "toy/c"}
    assert [p.task for p in candidates(made.population, OWNER)] == [ROOT, "toy/a", "toy/b", "toy/c"]


def test_of_one_publisher_there_is_one_path_and_a_second_of_the_task_keeps_its_head(made):
    made.publish("run", "toy/a", 20)
    three = replace(STILL, defaults={**STILL.defaults, "num_paths": 3})
    pairs = set()
    for seed in range(60):
        parts = parts_of(child_of(made, seed, three)[0])
        assert len({part.owner for part in parts}) == len(parts) == 3
        assert all(part.network.has_head == (part.task == "toy/a") for part in parts)
        pairs.add((parts[0].agent, sum(part.task == "toy/a" for part in parts)))
    assert pairs == {("run", 1), ("run", 2), ("vit/toy/a", 1), ("vit/toy/a", 2)}


def test_an_own_path_is_chosen_by_its_score_and_number_of_children(made):
    first, second = (child_of(made, seed)[0] for seed in (1, 2))
    for path, quality in ((first, 0.6), (second, 0.7)):
        keep(made, path)
        path.quality = quality

    def walk(seed: int) -> list[Path | None]:
        rng = np.random.default_rng(seed)
        return [sample_own(made.population, OWNER, 0.5, rng) for _ in range(4)]

    # Draws .262 | .298 | .814 .092 | .600 .729: the better one, again (1/2); the other, since not
    # again (1/4); neither.
    assert walk(2) == [second, second, first, None]
    assert (second.children_per_task, first.children_per_task) == ({OWNER: 2}, {OWNER: 1})


def test_a_child_keeps_its_parents_further_paths_and_takes_the_newest_main_path(made):
    parent, _ = child_of(made, 3)
    keep(made, parent)
    for name in (ROUTER, connector_name(1)):
        component = parent.named(name)
        assert component is not None
        component.source = {
            "Dense_0": {k: v + 1 for k, v in component.params["Dense_0"].items()}
        } | ({"LayerNorm_0": component.params["LayerNorm_0"]} if name == ROUTER else {})
    (former,) = made.population.paths["vit/toy/a:toy/a"]
    made.population.paths["vit/toy/a:toy/a"] = []
    newer = made.publish("vit/toy/a", "toy/a", 30)
    child, found = child_of(made, 4)
    assert found is parent and parent.children_per_task == {OWNER: 1}
    assert [p.manifest for p in parts_of(child)] == [newer.published, parts_of(parent)[1].manifest]
    assert former.published not in {p.manifest for p in parts_of(child)}
    assert parts_of(child)[1].components == parts_of(parent)[1].components
    for name in (ROUTER, connector_name(1)):
        ours, theirs = child.named(name), parent.named(name)
        assert ours is not None and theirs is not None and ours is not theirs
        np.testing.assert_array_equal(
            ours.params["Dense_0"]["bias"], theirs.params["Dense_0"]["bias"]
        )


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2)])
def test_with_another_number_of_paths_connectors_stay_and_the_router_is_new(made, before, after):
    def with_paths(count: int):
        return replace(STILL, defaults={**STILL.defaults, "num_paths": count})

    parent, _ = child_of(made, 5, with_paths(before))
    keep(made, parent)
    connector = parent.named(connector_name(1))
    assert connector is not None
    connector.source = {"Dense_0": {k: v + 1 for k, v in connector.params["Dense_0"].items()}}
    parent.hyperparameters = {**parent.hyperparameters, "num_paths": after}
    child, _ = child_of(made, 6, with_paths(before))
    kept = min(before, after)
    assert [p.manifest for p in parts_of(child)][:kept] == [p.manifest for p in parts_of(parent)][
        :kept
    ]
    assert len(parts_of(child)) == child.hyperparameters["num_paths"] == after
    router, same = child.named(ROUTER), child.named(connector_name(1))
    assert router is not None and same is not None
    np.testing.assert_array_equal(
        router.params["Dense_0"]["bias"], init_router(3, after, 0.8)["Dense_0"]["bias"]
    )
    np.testing.assert_array_equal(same.params["Dense_0"]["bias"], [1, 1, 1])


def test_a_kept_path_of_the_publisher_that_became_the_main_one_is_replaced(made):
    other = made.publish("run", "toy/a", 20)
    mains = main_paths(made.population, ORIGIN)
    assert [p.owner for p in mains] == ["vit/toy/a:toy/a", "run:toy/a"]
    kept = next(
        parts_of(child)[1]
        for child, _ in (child_of(made, seed) for seed in range(60))
        if parts_of(child)[1].owner == other.owner
    )
    rng, free = np.random.default_rng(0), [other, *made.population.paths["vit/toy/b:toy/b"]]
    assert sample_paths(other, [kept], free, 2, rng) == [other, free[1]]
    assert sample_paths(mains[0], [kept], free, 2, rng) == [mains[0], kept]


def test_there_are_fewer_paths_where_there_are_no_more(tmp_path):
    alone = system(tmp_path)
    alone.publish("vit/toy/a", "toy/a", 1)
    child, _ = child_of(alone, 0, replace(STILL, defaults={**STILL.defaults, "num_paths": 3}))
    assert [p.task for p in parts_of(child)] == ["toy/a", ROOT]
    assert child.hyperparameters["num_paths"] == 2


def test_without_a_single_path_of_the_task_there_is_nothing_to_mix(tmp_path):
    empty = system(tmp_path)
    empty.publish("vit/toy/b", "toy/b", 1)
    with pytest.raises(
        StateError, match="task toy/a: expected a published single path of width 16"
    ):
        child_of(empty, 0)


def test_a_path_of_other_classes_is_no_main_path(tmp_path):
    """As an import of another version of the data set may be."""
    found = system(tmp_path)
    found.publish("other", "toy/a", 1, classes=5)
    with pytest.raises(StateError, match="and 3 classes to build on, found none"):
        child_of(found, 0)
    found.publish("vit/toy/a", "toy/a", 2)
    three = replace(STILL, defaults={**STILL.defaults, "num_paths": 3})
    parts = parts_of(child_of(found, 0, three)[0])
    assert {p.network.outputs for p in parts if p.agent == "other"} == {5}  # its logits


def test_what_is_made_of_a_private_main_path_is_private(tmp_path):
    found = system(tmp_path)
    found.publish("vit/toy/a", "toy/a", 1, private=True)
    found.publish("vit/toy/b", "toy/b", 2, private=True)
    child, _ = child_of(found, 0)
    assert child.private and [p.task for p in parts_of(child)] == ["toy/a", ROOT]


def test_every_hyperparameter_of_the_ranges_may_move_and_the_generations_data_stay(made):
    """And each has a rate of its own, which is written down."""
    moved = set()
    for seed in range(30):
        hp = child_of(made, seed, EXPERIMENT)[0].hyperparameters
        moved |= {k for k in EXPERIMENT.ranges if hp[k] != EXPERIMENT.defaults[k]}
        assert {f"_mu_|hp:{k}" for k in EXPERIMENT.ranges} <= hp.keys()
        assert {k: hp[k] for k in DATA} == DATA
        assert all(hp[k] in EXPERIMENT.ranges[k] for k in EXPERIMENT.ranges)
    assert moved == EXPERIMENT.ranges.keys()


def test_the_same_seed_makes_the_same_child_and_another_seed_another(made):
    def told(seed: int) -> Any:
        child, _ = child_of(made, seed, EXPERIMENT)
        return child.hyperparameters, [part.to_json() for part in parts_of(child)]

    assert told(1) == told(1)
    assert any(told(1) != told(seed) for seed in range(2, 6))


def test_parts_stay_frozen_in_later_cycles(made):
    child, _ = child_of(made, 0)
    keep(made, child)
    for component in child.components:
        component.locks.clear()  # as at the start of a cycle
    kind(made)
    mixer = [c.name for c in child.components if c.trainable]
    assert mixer == [ROUTER, connector_name(1)]
