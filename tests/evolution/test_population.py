"""Locks, accounted size, score and retention: the rules on small systems computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_paths_and_components_are_numbered_from_0():
    population = Population(Score())
    assert [population.path_id() for _ in range(3)] == [0, 1, 2]
    assert [population.component_id() for _ in range(3)] == [0, 1, 2]


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


def test_where_the_root_counts_it_is_a_user_like_a_task():
    """evolution/SYSTEMS.md, Score: a root component used by one task costs half."""
    population = system()
    a = add(population, "a", root_of(population), 0.5)
    assert accounted_params(a, root_counts=True) == (100 + 10) / 2 + 1
    population.finish("a")
    b = add(population, "b", root_of(population), 0.5)
    assert accounted_params(b, root_counts=True) == pytest.approx((100 + 10) / 3 + 1)


def test_score_discounts_by_compute_as_well():
    """Each reference costs one factor; a reference of 0 costs nothing."""
    population = system(Score(0.5, reference_params=111, reference_flops=1e6))
    a = add(population, "a", root_of(population), 0.8)
    a.metrics["flops"] = 2e6
    assert population.score(a) == pytest.approx(0.8 * 0.5 * 0.5**2)
    population.score = Score(0.5, reference_params=0, reference_flops=1e6)
    assert population.score(a) == pytest.approx(0.8 * 0.5**2)


def test_the_oldest_wins_where_the_newest_does_not():
    population = system()
    population.newest_wins = False
    first = add(population, "a", root_of(population), 0.5)
    add(population, "a", root_of(population), 0.5)
    assert population.best("a") is first


def test_pruning_keeps_the_best_and_their_ancestors_until_the_end():
    population = system()
    worst = add(population, "a", root_of(population), 0.1)
    child = add(population, "a", worst, 0.5)
    other = add(population, "a", root_of(population), 0.4)
    population.prune("a", 2)
    assert population.paths["a"] == [child, other]
    assert child.parent is worst and population.pruned(population) == [worst]
    population.finish("a")
    assert child.parent is root_of(population) and not population.pruned(population)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from("abc"),  # task
        st.integers(0, 9),  # which parent
        st.sets(st.sampled_from(["embedding", "encoderblock_0", "head"])),  # copied
        st.integers(0, 4),  # quality, in quarters
        st.booleans(),  # whether the task iteration ends after it
    ),
    max_size=25,
)


@given(OPERATIONS)
def test_locks_agree_with_who_uses_what_after_any_sequence(operations):
    """A component is locked by exactly those whose retained path holds it."""
    population = system()
    under_way: set[str] = set()
    for task, parent, own, quality, ends in operations:
        if task not in under_way:
            for other in sorted(under_way):
                population.finish(other)
            under_way = {task}
            population.start(task)
        parents = population.by_score(task) + population.seeds(task)
        add(population, task, parents[parent % len(parents)], quality / 4, own)
        if ends:
            population.finish(task)
            under_way = set()
    for task in sorted(under_way):
        population.finish(task)
    users: dict[int, set[str]] = {}
    for path in population:
        for component in path.components:
            users.setdefault(component.id, set()).add(path.task)
    assert {c.id: c.locks for c in population.components()} == users
    retained = [group for task, group in population.paths.items() if task != ROOT]
    assert all(len(group) == 1 for group in retained)
    total = sum(accounted_params(path) for path in population if path.task != ROOT)
    used = [c for c in population.components() if c.locks - {ROOT}]
    assert total == pytest.approx(sum(c.num_params for c in used))
