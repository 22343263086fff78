"""Parents, hyperparameters and copying: golden cases of the specification, and its properties."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolution import mutation
from evolution.experiments.experiment import Experiment
from evolution.experiments.search_space import DEFAULTS, MU2NET_V2
from evolution.methods import MU2NET, MU2NET_PLUS, MU3NET, MU4NET, MUNET
from evolution.population import POSITION_SOURCE, ROOT, Path, Population
from tests.evolution.populations import Draws, add, population, rng, root_of
from tests.evolution.systems import ROOT as ROOT_ARCH
from tests.evolution.systems import TINY, tiny

# ---- parents


def test_best_own_path_first_with_probability_halved_per_child():
    system = population()
    worse, better = (add(system, "a", root_of(system), q) for q in (0.5, 0.6))
    better.children_per_task["a"] = 2
    pick = lambda *draws: mutation.sample_parent(system, "a", [], MU2NET, Draws(*draws))  # noqa: E731
    assert pick(0.24) is better
    assert pick(0.25, 0.99) is worse  # 0.25 is not below 1/4


def test_a_path_without_children_for_the_task_is_always_taken():
    system = population()
    path = add(system, "a", root_of(system), 0.5)
    path.children_per_task["b"] = 9
    assert mutation.sample_parent(system, "a", [], MU2NET, Draws(0.999)) is path


def test_a_seed_that_is_taken_goes_to_the_end_with_all_before_it():
    system = population()
    root = root_of(system)
    b, c = add(system, "b", root, 0.5), add(system, "c", root, 0.5)
    root.children_per_task["a"] = 1
    seeds = [root, b, c]
    assert mutation.sample_parent(system, "a", seeds, MU2NET, Draws(0.5, 0.9)) is b
    assert seeds == [c, root, b]


def test_if_all_are_refused_the_choice_is_uniform():
    system = population()
    own, root = add(system, "a", root_of(system), 0.5), root_of(system)
    own.children_per_task["a"] = root.children_per_task["a"] = 5
    seeds = [root]
    assert mutation.sample_parent(system, "a", seeds, MU2NET, Draws(0.9, 0.9, 1)) is root
    assert seeds == [root]


@pytest.mark.parametrize("method", [MUNET, MU2NET_PLUS, MU3NET, MU4NET], ids=lambda m: m.name)
def test_only_mu2net_walks_the_seeds(method):
    """The others draw uniformly as soon as no own path is accepted."""
    system = population()
    seeds = [add(system, f"t{i}", root_of(system), 0.5) for i in range(5)]
    assert mutation.sample_parent(system, "a", seeds, method, Draws(3)) is seeds[3]


def test_every_seed_is_tried_once_before_any_twice():
    system = population()
    seeds = [add(system, f"t{i}", root_of(system), 0.5) for i in range(5)]
    taken = []
    for _ in range(5):
        parent = mutation.sample_parent(system, "a", seeds, MU2NET, rng())
        parent.children_per_task["a"] = 1
        taken.append(parent.task)
    assert taken == [f"t{i}" for i in range(5)]


# ---- hyperparameters


@given(st.integers(0, 5), st.integers(0, 99))
def test_a_neighbour_is_one_step_away_or_the_same_at_an_end(index, seed):
    choices = (1, 2, 5, 10, 20, 50)
    moved = choices.index(mutation.neighbour(choices[index], choices, rng(seed)))
    assert abs(moved - index) == 1 or (moved == index and index in (0, 5))


def test_a_value_between_the_choices_counts_as_the_nearest():
    """As a path of an earlier experiment may have it."""
    assert mutation.neighbour(0.19, (0.1, 0.2, 0.4), Draws(0.4)) == 0.4
    assert mutation.neighbour(0.0, (None, 0.2), Draws(0.4)) == 0.2
    with pytest.raises(ValueError, match="linear"):
        mutation.neighbour("linear", ("constant", "cosine"), rng())


def test_the_new_mutation_rate_decides_about_all_other_keys():
    experiment = tiny(ranges={"_mu_": (0.1, 0.5), "opt_lr": (0.01, 0.02)})
    hp = {"_mu_": 0.1, "opt_lr": 0.01, "num_layers": 1, "adapters": []}
    # _mu_ is drawn (0.05 < 0.1) and goes up (0.4 < 0.5); opt_lr's 0.3 is below the new .5 only.
    child = mutation.mutate_hyperparameters(hp, experiment, Draws(0.05, 0.4, 0.3, 0.4))
    assert child == {**hp, "_mu_": 0.5, "opt_lr": 0.02}
    assert hp["_mu_"] == 0.1 and hp["opt_lr"] == 0.01


@given(st.integers(0, 999))
def test_a_child_keeps_the_generations_data_hyperparameters(seed):
    child = mutation.mutate_hyperparameters({**DEFAULTS, "_mu_": 0.3}, TINY, rng(seed))
    for key, value in child.items():
        assert value == DEFAULTS[key] or key == "_mu_" or key.startswith("opt_")
        assert key not in MU2NET_V2 or value in MU2NET_V2[key]


def never_mutating(**defaults) -> Experiment:
    return tiny(defaults={**DEFAULTS, "_mu_": 0.0, **defaults})


def test_data_hyperparameters_come_from_the_best_path_not_from_the_parent():
    system = population()
    best = add(system, "a", root_of(system), 0.9, ds_hue_delta=0.2)
    shared = mutation.shared_data_hyperparameters(never_mutating(), best, True, rng())
    assert shared["ds_hue_delta"] == 0.2
    assert set(shared) == {key for key in DEFAULTS if key.startswith("ds_")}
    fresh = mutation.shared_data_hyperparameters(never_mutating(), None, True, rng())
    assert fresh["ds_hue_delta"] == 0.0


def test_data_hyperparameters_move_with_the_default_rate():
    """Not with the best path's: a system that stopped mutating still explores augmentation."""
    system = population()
    best = add(system, "a", root_of(system), 0.9, _mu_=0.0)
    always = tiny(defaults={**DEFAULTS, "_mu_": 1.0})
    shared = mutation.shared_data_hyperparameters(always, best, True, rng())
    assert shared["ds_area_range_min"] != 0.05
    unmoved = mutation.shared_data_hyperparameters(always, best, False, rng())
    assert unmoved["ds_area_range_min"] == 0.05


def test_adapters_are_gained_with_the_mutation_rate_and_lost_with_their_block():
    hp = {"_mu_": 0.5, "num_layers": 3, "adapters": [1, 5]}
    gains = tiny(ranges={}, mutate_adapters=True, defaults={**DEFAULTS, "_mu_": 0.5})
    assert mutation.mutate_hyperparameters(hp, gains, Draws(0.4, 0.6))["adapters"] == [0, 1]
    keeps = mutation.mutate_hyperparameters(hp, tiny(ranges={}), Draws())
    assert keeps["adapters"] == [1]


# ---- learned rates (evolution/SYSTEMS.md, Learned rates)

LEARNING = tiny(method=MU2NET_PLUS, ranges={"_mu_": (0.1, 0.2, 0.3)})


def test_the_rate_of_a_mutation_moves_with_the_general_rate_and_then_decides():
    hp = {"_mu_": 0.2}
    # 0.19 < 0.2: the rate moves, up (0.4 < 0.5), to 0.3; 0.29 < 0.3: the mutation happens.
    assert mutation.mutates(hp, "clone:cls", LEARNING, Draws(0.19, 0.4, 0.29))
    assert hp == {"_mu_": 0.2, "_mu_|clone:cls": 0.3}
    # 0.2 is not below 0.2: the rate stays and is the entry's, not the general one.
    assert mutation.mutates(hp, "clone:cls", LEARNING, Draws(0.2, 0.25))
    assert not mutation.mutates(hp, "clone:head", LEARNING, Draws(0.2, 0.25))
    assert hp["_mu_|clone:head"] == 0.2


def test_a_fixed_rate_is_the_experiments_whatever_a_parent_had_elsewhere():
    """muNet continues a system of paths that learned theirs."""
    munet = tiny(method=MUNET, ranges={}, defaults={**DEFAULTS, "_mu_": 0.1})
    assert not mutation.mutates({"_mu_": 0.3}, "clone:cls", munet, Draws(0.2))


def test_rates_are_not_learned_where_the_general_one_is_fixed():
    hp = {"_mu_": 0.2}
    fixed = tiny(method=MU2NET_PLUS, ranges={})
    assert mutation.mutates(hp, "clone:cls", fixed, Draws(0.19)) and hp == {"_mu_": 0.2}


def test_a_child_inherits_the_whole_table_and_forced_copies_have_no_entry():
    system = population()
    parent = {"_mu_|clone:cls": 0.3, "_mu_|hp:opt_lr": 0.1}
    child = child_of(system, root_of(system), "a", mu=0.2, experiment=LEARNING, **parent)
    table = {k for k in child.hyperparameters if k.startswith("_mu_|clone:")}
    shared = set(ROOT_ARCH.component_names) - {"encoder_norm", "head"}
    assert table == {f"_mu_|clone:{name}" for name in shared}
    assert child.hyperparameters["_mu_|hp:opt_lr"] == 0.1


def test_learned_rates_of_data_hyperparameters_come_from_the_best_path():
    experiment = tiny(method=MU2NET_PLUS)
    system = population()
    rates = {"_mu_|hp:ds_hue_delta": 0.3, "_mu_|hp:opt_lr": 0.3}
    best = add(system, "a", root_of(system), 0.9, **rates)
    shared = mutation.shared_data_hyperparameters(experiment, best, False, rng())
    assert shared["_mu_|hp:ds_hue_delta"] == 0.3 and "_mu_|hp:opt_lr" not in shared
    moved = mutation.shared_data_hyperparameters(experiment, best, True, rng())
    ranged = {k for k in experiment.ranges if k.startswith("ds_")}
    assert {k.removeprefix("_mu_|hp:") for k in moved if k.startswith("_mu_|")} == ranged


# ---- components


def child_of(
    system: Population,
    parent: Path,
    task: str,
    mu: float,
    experiment: Experiment = TINY,
    mutate: bool = True,
    **hp,
) -> Path:
    values = {**parent.hyperparameters, "_mu_": mu, **hp}
    arch = mutation.architecture_of(ROOT_ARCH, values, 3)
    return mutation.make_child(system, parent, task, arch, values, experiment, mutate, rng())


def test_an_unmutated_child_trains_a_new_head_alone():
    """muNet's first look at a seed (evolution/SYSTEMS.md, Parents): not even the norm is copied."""
    system = population()
    child = child_of(system, root_of(system), "a", mu=1.0, mutate=False)
    assert [c.name for c in child.components if c.trainable] == ["head"]


def test_without_mutation_only_the_norm_is_copied_and_the_head_is_new():
    system = population()
    child = child_of(system, root_of(system), "a", mu=0.0)
    trainable = [c.name for c in child.components if c.trainable]
    assert trainable == ["encoder_norm", "head"]
    shared = [c for c in child.components if not c.trainable]
    assert all(c in root_of(system).components for c in shared)
    assert not child.components[-1].params["kernel"].any()  # zeros


def test_with_certain_mutation_everything_is_copied():
    system = population()
    child = child_of(system, root_of(system), "a", mu=1.0)
    assert all(c.trainable for c in child.components)
    for mine, its in zip(child.components[:-1], root_of(system).components, strict=False):
        assert mine.id != its.id and mine.params is its.params


def test_another_tasks_head_is_never_taken():
    system = population()
    a = add(system, "a", root_of(system), 0.9)
    a.components[-1].source = jax.tree.map(np.ones_like, a.components[-1].params)
    system.finish("a")
    child = child_of(system, a, "b", mu=0.0)
    assert not child.components[-1].params["kernel"].any()


def test_the_tasks_own_trained_head_and_momentum_are_inherited():
    system = population()
    a = add(system, "a", root_of(system), 0.9)
    head = a.components[-1]
    head.source, head.trace = jax.tree.map(np.ones_like, head.params), {"kernel": "trace"}
    system.finish("a")
    system.start("a")
    copied = child_of(system, a, "a", mu=0.0).components[-1]
    assert copied.id != head.id and copied.trainable
    assert copied.params["kernel"].all() and copied.momentum == {"kernel": "trace"}


def test_a_dropped_block_is_found_again_further_up():
    system = population()
    shallow = add(system, "a", root_of(system), 0.9, num_layers=0)
    assert shallow.named("encoderblock_0") is None
    deeper = child_of(system, shallow, "a", mu=0.0, num_layers=1)
    assert deeper.named("encoderblock_0") is root_of(system).named("encoderblock_0")


def test_a_block_above_the_root_is_born_random_and_trainable():
    system = population()
    deeper = child_of(system, root_of(system), "a", mu=0.0, num_layers=2)
    block = deeper.named("encoderblock_1")
    assert block is not None and block.trainable and block.momentum is None


def test_position_embeddings_of_another_image_size_are_resampled_from_the_root():
    system = population()
    larger = child_of(system, root_of(system), "a", mu=0.0, ds_image_size=16)
    position = larger.named("posembed_input")
    assert position is not None and position.trainable
    assert position.params["pos_embedding"].shape == (1, 17, 16)


def test_other_sizes_are_resampled_from_what_was_published_not_from_the_roots_own_size():
    """A file's fine grid would otherwise reach a large image through the root's coarse one."""
    system = population()
    root = root_of(system)
    fine = np.random.default_rng(0).normal(size=(1, 17, 16)).astype(np.float32)
    source = mutation.new_component(system, POSITION_SOURCE, {"pos_embedding": fine})
    root.components = (*root.components, source)
    larger = child_of(system, root, "a", mu=0.0, ds_image_size=16).named("posembed_input")
    assert larger is not None
    assert np.array_equal(larger.params["pos_embedding"], fine)


def test_munet_shares_resampled_position_embeddings_as_the_roots():
    """Not trained and not accounted until a copy is made (evolution/SYSTEMS.md, Copying)."""
    system = population()
    munet = tiny(method=MUNET)
    a = child_of(system, root_of(system), "a", mu=0.0, experiment=munet, ds_image_size=16)
    position = a.named("posembed_input")
    assert position is not None and position.locks == {ROOT}
    a.quality, system.paths["a"] = 0.9, [a]
    system.finish("a")
    b = child_of(system, root_of(system), "b", mu=0.0, experiment=munet, ds_image_size=16)
    assert b.named("posembed_input") is position
    copied = child_of(system, root_of(system), "c", mu=1.0, experiment=munet, ds_image_size=16)
    assert copied.named("posembed_input").trainable


def test_components_of_another_width_are_refused():
    system = population()
    other = replace(ROOT_ARCH, width=32, num_classes=3)
    with pytest.raises(ValueError, match="share a width"):
        hp = dict(root_of(system).hyperparameters)
        mutation.make_child(system, root_of(system), "a", other, hp, TINY, True, rng())


def test_the_same_draws_make_the_same_child():
    def names(seed: int) -> list[str]:
        system = population()
        hp = {**DEFAULTS, "_mu_": 0.5, "num_layers": 1, "ds_image_size": 8}
        arch = mutation.architecture_of(ROOT_ARCH, hp, 3)
        child = mutation.make_child(system, root_of(system), "a", arch, hp, TINY, True, rng(seed))
        return [c.name for c in child.components if c.trainable]

    assert names(4) == names(4)
    assert len({tuple(names(seed)) for seed in range(9)}) > 1
