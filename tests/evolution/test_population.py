"""Locks, accounted size, score and retention: the rules on small systems computed by hand."""

import numpy as np
import pytest

from evolution.population import ROOT, Component, Path, Population, Score, accounted_params


def system(score: Score | None = None) -> Population:
    """A root with components of 100, 10 and 1 parameters, locked."""
    population = Population(score or Score())
    components = tuple(
        Component(population.component_id(), name, np.zeros(n), n)
        for name, n in (("embedding", 100), ("encoderblock_0", 10), ("head", 1))
    )
    root = Path(population.path_id(), ROOT, None, components, {}, 0)
    population.paths[ROOT] = [root]
    population.lock(root)
    return population


def add(
    population: Population, task: str, parent: Path, quality: float, own=("head",), private=False
) -> Path:
    """A path that has its own copies of the named components and shares the others."""
    components = tuple(
        Component(population.component_id(), c.name, c.params, c.num_params) if c.name in own else c
        for c in parent.components
    )
    path = Path(
        population.path_id(), task, parent, components, {}, parent.generation + 1, private, quality
    )
    population.paths.setdefault(task, []).append(path)
    return path


def root_of(population: Population) -> Path:
    return population.paths[ROOT][0]


def test_components_of_the_root_used_by_one_task_count_in_full():
    population = system()
    a = add(population, "a", root_of(population), 0.5)
    assert accounted_params(a) == 111


def test_a_component_is_split_between_the_tasks_that_use_it():
    population = system()
    a = add(population, "a", root_of(population), 0.5)
    population.finish("a")
    b = add(population, "b", root_of(population), 0.5, own=("encoderblock_0", "head"))
    assert accounted_params(b) == 100 / 2 + 10 + 1
    assert accounted_params(a) == 111  # b is a candidate, not retained yet
    population.finish("b")
    assert accounted_params(a) == 100 / 2 + 10 + 1


def test_score_discounts_by_accounted_size():
    population = system(Score(factor=0.5, reference_params=111))
    a = add(population, "a", root_of(population), 0.8)
    assert population.score(a) == pytest.approx(0.4)


def test_the_best_is_the_newest_among_equals():
    population = system()
    add(population, "a", root_of(population), 0.5)
    second = add(population, "a", root_of(population), 0.5)
    add(population, "a", root_of(population), 0.4)
    assert population.best("a") is second


def test_only_the_best_survives_and_its_components_are_locked():
    population = system()
    loser = add(population, "a", root_of(population), 0.4)
    winner = add(population, "a", loser, 0.6)
    assert population.finish("a") is winner
    assert population.paths["a"] == [winner]
    assert all(c.locks >= {"a"} for c in winner.components)
    assert not any("a" in c.locks for c in loser.components if c.name == "head")
    assert winner.parent is root_of(population)  # the loser is no ancestor any more


def test_starting_a_task_again_frees_only_what_no_other_task_uses():
    population = system()
    a = add(population, "a", root_of(population), 0.5, own=("encoderblock_0", "head"))
    population.finish("a")
    add(population, "b", a, 0.5)
    population.finish("b")
    population.start("a")
    assert [c.name for c in a.components if c.trainable] == ["head"]  # b uses the block


def test_nothing_starts_from_a_private_task_or_from_the_task_itself():
    population = system()
    a = add(population, "a", root_of(population), 0.5)
    population.finish("a")
    add(population, "p", a, 0.5, private=True)
    population.finish("p")
    assert population.seeds("b") == [root_of(population), a]
    assert population.seeds("a") == [root_of(population)]


def test_a_task_without_a_path_has_no_best():
    population = system()
    assert population.best("a") is None
    assert population.finish("a") is None
    with pytest.raises(ValueError, match="has not been evaluated"):
        population.score(root_of(population))
