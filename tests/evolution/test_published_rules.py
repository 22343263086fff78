"""Rules of the published notebooks that are easily lost: a golden case of each (SYSTEMS.md)."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evolution import mutation, state
from evolution.agents.kinds import CLASSES
from evolution.events import ChildTrained
from evolution.experiments.baselines import baseline
from evolution.experiments.experiment import Experiment, with_settings
from evolution.experiments.named import EXPERIMENTS
from evolution.experiments.search_space import DEFAULTS
from evolution.experiments.settings import SettingError
from evolution.methods import MU2NET, MU2NET_PLUS, MU3NET, MU4NET, MUNET
from evolution.population import Path, Population
from evolution.run import Run
from evolution.state import Progress, StateError
from evolution.training import programs
from evolution.training.batches import Batches
from model_store import ModelStore
from tests.evolution.populations import Draws, add, population, rng, root_of
from tests.evolution.systems import ROOT as ROOT_ARCH
from tests.evolution.systems import TINY, start, tasks, tiny
from vit.components import apply, init

METHODS = (MUNET, MU2NET, MU2NET_PLUS, MU3NET, MU4NET)
EACH = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)

ALL = {e.name: e for e in (*EXPERIMENTS.values(), *(c.experiment for c in CLASSES.values()))}


def equals(method=MU2NET) -> tuple[Population, list[Path]]:
    """Three paths of a task with the same score, the oldest first."""
    system = population()
    system.newest_wins = method.newest_wins
    return system, [add(system, "a", root_of(system), 0.5) for _ in range(3)]


# ---- equal scores (evolution/SYSTEMS.md, Search)


@EACH
def test_the_choice_of_a_parent_goes_over_equal_scores_oldest_first(method):
    system, (first, second, _) = equals(method)
    assert mutation.sample_parent(system, "a", [], method, Draws(0.9)) is first
    assert mutation.sample_parent(system, "a", [], method, Draws(0.5, 0.9)) is second


@EACH
def test_of_equal_scores_the_newest_leave_first(method):
    system, (first, second, _) = equals(method)
    system.prune("a", 2)
    assert system.paths["a"] == [first, second]


@EACH
def test_where_the_best_is_taken_some_systems_take_the_newest_of_equals(method):
    system, (first, _, third) = equals(method)
    chosen = third if method in (MU2NET, MU2NET_PLUS, MU3NET) else first
    assert system.best("a") is chosen and system.finish("a") is chosen


# ---- pruned candidates


def pruned_parent() -> tuple[Population, Path, Path]:
    """A path whose parent was pruned; only that parent has the adapter that both had."""
    system = population()
    experiment = tiny(mutate_adapters=True)
    hp = {**root_of(system).hyperparameters, "adapters": [0]}
    arch = mutation.architecture_of(ROOT_ARCH, hp, 3)
    make = mutation.make_child
    parent = make(system, root_of(system), "a", arch, hp, experiment, True, rng())
    parent.quality, system.paths["a"] = 0.4, [parent]
    child = add(system, "a", parent, 0.6, adapters=[])
    system.prune("a", 1)
    assert system.paths["a"] == [child]
    return system, parent, child


def test_a_pruned_parent_stays_an_ancestor_until_the_task_iteration_ends():
    system, parent, child = pruned_parent()
    adapter = parent.named("residual_adapter_0")
    assert adapter is not None and child.named("residual_adapter_0") is None
    regained = add(system, "a", child, 0.5, adapters=[0]).named("residual_adapter_0")
    assert child.parent is parent and regained is not None
    assert regained.params is adapter.params
    system.finish("a")
    assert child.parent is root_of(system)


def test_a_saved_state_holds_pruned_ancestors(tmp_path):
    """What is stopped after pruning goes on as if it had not been stopped."""
    system, parent, child = pruned_parent()
    store = ModelStore(tmp_path, create=True)
    progress = Progress("x", 0, ["a"], ROOT_ARCH, TINY.to_json())
    state.save(store, "x", progress, system)
    _, again = state.load(store, "x")
    (found,) = again.paths["a"]
    assert found.id == child.id and [path.id for path in again] == [path.id for path in system]
    assert found.parent is not None and found.parent.id == parent.id
    assert found.parent.parent is root_of(again)
    theirs, ours = found.parent.named("residual_adapter_0"), parent.named("residual_adapter_0")
    assert theirs and ours and theirs.digest == ours.digest and theirs.trainable
    again.finish("a")
    state.save(store, "x", progress, again)
    assert "pruned" not in state.saved(store, "x")[1]


# ---- new components (evolution/SYSTEMS.md, Copying)


def fresh(method, seed: int, system: Population) -> list[np.ndarray]:
    """The parameters of an adapter and of a block that no ancestor of a child has."""
    experiment = tiny(method=method, ranges={}, defaults={**TINY.defaults, "_mu_": 0.0})
    hp = {**experiment.defaults, "num_layers": 2, "adapters": [0]}
    arch = mutation.architecture_of(ROOT_ARCH, hp, 3)
    make = mutation.make_child
    child = make(system, root_of(system), "a", arch, hp, experiment, True, rng(seed))
    adapter, block = child.named("residual_adapter_0"), child.named("encoderblock_1")
    assert adapter is not None and block is not None
    return [adapter.params["Dense_0"]["kernel"], block.params["MlpBlock_0"]["Dense_0"]["kernel"]]


@pytest.mark.parametrize(
    ("method", "of_children", "of_draws"),
    [
        (MUNET, False, True),  # the child's number decides
        (MU2NET, True, True),
        (MU2NET_PLUS, False, False),
        (MU3NET, False, False),
        (MU4NET, False, False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_whether_new_components_are_equal_from_child_to_child(method, of_children, of_draws):
    system = population()
    two = [fresh(method, 0, system), fresh(method, 1, system)]
    same_child = [fresh(method, 0, population()), fresh(method, 1, population())]
    for (a, b), alike in ((two, of_children), (same_child, of_draws)):
        assert [np.array_equal(x, y) for x, y in zip(a, b, strict=True)] == [alike, alike]


def test_a_saved_run_keeps_its_rule_about_new_components():
    """It was another field once, of blocks alone."""
    saved = TINY.to_json()
    for former, today in ((True, "draw"), (False, "name")):
        method = {k: v for k, v in saved["method"].items() if k != "fresh_components"}
        read = Experiment.from_json({**saved, "method": {**method, "random_blocks": former}})
        assert read.method == replace(TINY.method, fresh_components=today)


# ---- rates (evolution/SYSTEMS.md, Learned rates)


@EACH
def test_a_rate_without_a_range_is_the_paths_own_but_in_munet(method):
    fixed = tiny(method=method, ranges={}, defaults={**DEFAULTS, "_mu_": 0.1})
    hp = {"_mu_": 0.3}
    assert mutation.mutates(hp, "clone:cls", fixed, Draws(0.2)) == (method is not MUNET)
    assert hp == {"_mu_": 0.3}


@EACH
def test_learned_rates_without_a_range_decide_and_do_not_move(method):
    fixed = tiny(method=method, ranges={}, defaults={**DEFAULTS, "_mu_": 0.1})
    hp = {"_mu_": 0.1, "_mu_|clone:cls": 0.5}
    learned = method in (MU2NET_PLUS, MU3NET, MU4NET)
    assert mutation.mutates(dict(hp), "clone:cls", fixed, Draws(0.4)) == learned
    assert not mutation.mutates(hp, "clone:head", fixed, Draws(0.4))
    assert hp == {"_mu_": 0.1, "_mu_|clone:cls": 0.5}


# ---- values outside a range (evolution/SYSTEMS.md, Hyperparameters)


@pytest.mark.parametrize(
    ("setting", "range_of"),
    [("opt_lr=0.03", "demo"), ("opt_momentum=null", "demo"), ("_mu_=0.12", "demo"),
     ("num_layers=0", "munet-chars"), ("ds_image_size=40", "munet-chars")],
)  # fmt: skip
def test_a_default_outside_its_range_is_refused(setting, range_of):
    e = with_settings(EXPERIMENTS[range_of], [f"defaults.{setting}"])
    with pytest.raises(SettingError, match=f"expected one of .* range of {range_of}, found"):
        e.require_defaults_in_ranges()
    baseline("finetune-all", e).require_defaults_in_ranges()  # mutates nothing: any value


@pytest.mark.parametrize("experiment", ALL.values(), ids=lambda e: e.name)
def test_the_defaults_of_all_experiments_are_in_their_ranges(experiment):
    experiment.require_defaults_in_ranges()


@pytest.mark.parametrize(
    ("key", "range_of"), [("opt_lr", "opt_lr"), ("_mu_", "_mu_"), ("_mu_|clone:cls", "_mu_")]
)
def test_a_run_refuses_to_continue_paths_with_values_outside_its_ranges(tmp_path, key, range_of):
    run = start(tmp_path / "store", tiny(tasks=("toy/a",), passes=1))
    child = add(run.population, "toy/a", root_of(run.population), 0.5, **{key: 0.2})
    run.population.finish("toy/a")
    run.save()
    further = tiny(name="further", ranges={range_of: (0.1, 0.3)}, tasks=("toy/b",))
    if range_of == "_mu_":  # which the root has too
        further = replace(further, ranges={"_mu_": (0.1, 0.2, 0.3)})
        child.hyperparameters[key] = 0.15  # type: ignore[index]
        run.save()
    store = ModelStore(tmp_path / "store")
    value = 0.2 if key == "opt_lr" else 0.15
    with pytest.raises(StateError, match=re.escape(f"{key} {value}, expected one of 0.1,")):
        Run.extend(further, store, 0, tasks, (store, TINY.name))
    assert store.agents() == [TINY.name]


# ---- sizes: children of a generation, replicas, types (evolution/SYSTEMS.md, Deviations)

SMALL = re.compile("chars5|compare|demo|stream")


@pytest.mark.parametrize("experiment", ALL.values(), ids=lambda e: e.name)
def test_published_experiments_have_eight_children_a_generation_and_compute_in_float32(experiment):
    """One for each device of their runs. Those for 2 cores have names of their own."""
    small = bool(SMALL.search(experiment.name))
    devices = 32 if re.match("mu2net-v(it|tab)", experiment.name) else 8
    assert experiment.children_per_generation == (1 if small else devices)
    assert experiment.bfloat16 == small
    if experiment.name in EXPERIMENTS:
        assert experiment.replicas == experiment.children_per_generation


@pytest.mark.parametrize("kind", ["finetune-all", "freeze:2", "adapters:32"])
def test_a_baseline_is_eight_replicas_as_long_as_all_generations(kind):
    """80 rounds in Chars, 480 in the decathlon; all see the same batches."""
    for name, rounds in (("munet-chars", 80), ("munet-vdd", 480), ("mu2net-chars", 80)):
        e = baseline(kind, EXPERIMENTS[name])
        assert (e.passes, e.samples_per_task, e.children_per_generation) == (1, 8, 8)
        assert e.rounds_per_child == rounds
    one = with_settings(EXPERIMENTS["munet-chars"], ["replicas=1"])
    e = baseline(kind, one)
    assert (e.samples_per_task, e.rounds_per_child) == (1, 80)
    assert baseline(kind, EXPERIMENTS["munet-chars5-tuned"]).samples_per_task == 1


def test_of_the_replicas_of_a_baseline_the_best_by_validation_is_kept(tmp_path):
    search = tiny(
        method=replace(TINY.method, fresh_components="child"), tasks=("toy/a",), passes=1,
        samples_per_task=4, children_per_generation=2, replicas=3,
    )  # fmt: skip
    run = start(tmp_path, baseline("adapters:2", search))
    events = list(run.run())
    qualities = [e.outcome.child.quality for e in events if isinstance(e, ChildTrained)]
    assert len(qualities) == 3
    (kept,) = run.population.paths["toy/a"]
    assert kept.quality == max(qualities)


def test_bfloat16_is_a_setting_of_accelerators(monkeypatch):
    assert programs.compute_dtype(bfloat16=True) == jnp.float32
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert programs.compute_dtype(bfloat16=True) == jnp.bfloat16
    assert programs.compute_dtype(bfloat16=False) == jnp.float32
    assert not with_settings(EXPERIMENTS["demo"], ["bfloat16=false"]).bfloat16
    with pytest.raises(ValueError, match="true or false"):
        with_settings(EXPERIMENTS["demo"], ["bfloat16=1"])


@pytest.mark.parametrize("name", ["encoderblock_0", "residual_adapter_0", "encoder_norm"])
def test_softmax_and_norms_are_float32_also_where_activations_are_bfloat16(name):
    arch = replace(ROOT_ARCH, num_layers=2, adapters=(0,))
    params = programs.computed(init(arch, name), jnp.bfloat16)
    x = jnp.zeros((2, arch.tokens, arch.width), jnp.bfloat16)
    traced = jax.make_jaxpr(lambda p, x: apply(arch, name, p, x))(params, x)
    assert traced.out_avals[0].dtype == jnp.bfloat16
    found = {(e.primitive.name, str(e.invars[0].aval.dtype)) for e in equations(traced.jaxpr)}
    exact = {kind: dtype for kind, dtype in found if kind in ("exp", "rsqrt")}
    assert exact == dict.fromkeys(exact, "float32") and "rsqrt" in exact
    assert ("exp" in exact) == (name == "encoderblock_0")


def equations(jaxpr):
    """All equations, also those of functions that are called."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_a_small_set_gives_other_batches_in_each_pass():
    """Where the notebooks repeat those of the first pass: ours is kept on purpose."""
    batches = Batches(seed=0, key=(0,), examples=8, batch_size=4, steps_per_round=2, rounds=3)
    passes = [drawn.order for drawn in batches.drawn()]
    for order in passes:
        assert sorted(order.reshape(-1)) == list(range(8))
    assert len({tuple(sorted(order[0])) for order in passes}) > 1


@pytest.mark.parametrize("method", ["munet", "mu2net", "mu2net-plus"])
def test_chars5_has_the_published_defaults_and_the_tuned_ones_under_two_names(method):
    published, tuned = (EXPERIMENTS[f"{method}-chars5-{kind}"] for kind in ("published", "tuned"))
    assert published.defaults == EXPERIMENTS[f"{method}-chars"].defaults
    assert tuned.defaults["opt_lr"] == 0.05 and not tuned.defaults["ds_flip_left_right"]
    assert replace(tuned, name="", defaults={}) == replace(published, name="", defaults={})


# ---- the number of blocks, and schedules


def test_mu2net_mutates_the_number_of_blocks_where_published_alone():
    """Its v1 ranges have none; the preliminary experiment and size-scale add one."""
    tuned = {
        name for name, e in EXPERIMENTS.items() if e.method is MU2NET and "num_layers" in e.ranges
    }
    assert tuned == {"mu2net-cmaterdb"}
    for name in ("mu2net-chars", "mu2net-vdd"):
        blocks = EXPERIMENTS[name].defaults["num_layers"]
        scaled = baseline("size-scale:70", EXPERIMENTS[name]).ranges["num_layers"]
        assert scaled == tuple(range(1, blocks + 1))
    assert EXPERIMENTS["munet-chars"].ranges["num_layers"] == (1, 2, 3)


def test_the_linear_schedule_falls_in_a_line_to_where_the_warm_up_starts():
    hp = programs.Hyperparameters.of(
        {**DEFAULTS, "opt_lr": 1.0, "opt_lr_schedule": "linear", "opt_lr_warmup_ratio": 0.2},
        50, 5, MU3NET.warmup_start,
    )  # fmt: skip
    rate = [float(programs.learning_rate(jnp.int32(i), hp)) for i in range(50)]
    assert rate[0] == pytest.approx(0.001) and rate[5] == pytest.approx(0.5005)
    assert rate[10] == pytest.approx(1.0) and rate[30] == pytest.approx(0.5005)
    assert rate[49] == pytest.approx(0.001 + 0.999 / 40)
    for name, experiment in EXPERIMENTS.items():
        assert "linear" not in experiment.ranges.get("opt_lr_schedule", ()), name
