"""The rows of μ3Net and μ4Net: golden cases of what sets them apart."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from evolution import mutation
from evolution.cycle import Cycle
from evolution.methods import MU2NET_PLUS, MU3NET, MU4NET
from evolution.state import Progress
from tests.evolution.populations import Draws, add, population, root_of
from tests.evolution.systems import ROOT as ROOT_ARCH
from tests.evolution.systems import tiny


def test_the_third_system_is_the_second_with_agents():
    """The notebook of its agents is the one that holds μ2Net+ (evolution/SYSTEMS.md, Agents)."""
    assert replace(MU3NET, name=MU2NET_PLUS.name) == MU2NET_PLUS


def test_the_fourth_inherits_no_momentum_and_keeps_the_older_of_equals():
    assert not MU4NET.inherits_momentum and not MU4NET.newest_wins
    assert MU3NET.inherits_momentum and MU3NET.newest_wins


@pytest.mark.parametrize(("method", "drawn"), [(MU3NET, 1), (MU4NET, 0)])
def test_whether_a_parent_that_was_not_accepted_but_drawn_counts_the_child(method, drawn):
    system = population()
    own, root = add(system, "a", root_of(system), 0.5), root_of(system)
    sample = lambda *draws: mutation.sample_parent(system, "a", [root], method, Draws(*draws))  # noqa: E731
    assert sample(0.99) is own and own.children_per_task == {"a": 1}
    assert sample(0.5, 0) is own  # refused with probability 1/2, then drawn among two
    assert own.children_per_task == {"a": 1 + drawn}
    assert sample(0.5, 1) is root
    assert root.children_per_task.get("a", 0) == drawn


def test_owners_count_children_of_one_path_apart():
    """Agents of one task do not wear out each other's paths."""
    system = population()
    path = add(system, "x/a:a", root_of(system), 0.5)
    path.children_per_task["y/a:a"] = 9
    assert mutation.sample_parent(system, "x/a:a", [], MU4NET, Draws(0.99)) is path


@pytest.mark.parametrize(("method", "left"), [(MU3NET, 2), (MU4NET, 0)])
def test_whether_children_draw_about_data_hyperparameters_of_their_own(method, left):
    """What is drawn about them is replaced by the generation's, but it uses up randomness."""
    experiment = tiny(
        method=replace(method, learned_rates=False),
        ranges={"_mu_": (0.2, 0.3), "opt_lr": (0.1, 0.2), "ds_crop": (True, False)},
    )
    hp = {"_mu_": 0.2, "opt_lr": 0.1, "ds_crop": True, "num_layers": 1, "adapters": []}
    # In order: _mu_ stays, ds_crop changes to its neighbour, opt_lr stays.
    draws = Draws(0.9, 0.1, 0.1, 0.9) if left == 0 else Draws(0.9, 0.9, 0.1, 0.1)
    child = mutation.mutate_hyperparameters(hp, experiment, draws)  # type: ignore[arg-type]
    assert child == {**hp, "ds_crop": left > 0} and len(draws.values) == left


@pytest.mark.parametrize(("method", "bar"), [(MU3NET, 0.5), (MU4NET, -np.inf)])
def test_whether_another_agents_path_of_the_same_task_sets_the_bar(method, bar):
    system = population()
    parent = add(system, "a", root_of(system), 0.5)
    experiment, progress = tiny(method=method), Progress("x", 0, [], ROOT_ARCH)
    cycle = Cycle(experiment, system, progress, "x/a:a", cast(Any, None), cast(Any, None))
    child = replace(parent, owner="x/a:a", parent=parent)
    assert cycle._bar(child, parent) == bar
    assert cycle._bar(child, child) == 0.5
    unknown = replace(parent, quality=None)  # as an import may have it
    assert cycle._bar(child, unknown) == -np.inf
