"""muNet, μ2Net and μ2Net+ on toy tasks: what holds for all of them, and what sets them apart."""

import pytest

from evolution.events import ChildTrained, TaskPublished
from evolution.experiments.search_space import MU2NET_PLUS as PLUS_RANGES
from evolution.experiments.search_space import MUNET as MUNET_RANGES
from evolution.methods import MU2NET, MU2NET_PLUS, MUNET, Method
from evolution.population import ROOT, Score
from evolution.run import Run
from evolution.state import load
from evolution.training.programs import compiled_programs
from model_store import ModelStore
from model_store.upkeep import verify_store
from tests.evolution.systems import ROOT as ROOT_ARCH
from tests.evolution.systems import TINY, forget_programs, published, start, tasks, tiny

SIZE = {"ds_image_size": (8,)}  # one shape, so that all systems share their programs
RANGES = {
    "munet": {**MUNET_RANGES, **SIZE, "adapter_dim": (32,)},
    "mu2net": TINY.ranges,
    "mu2net-plus": {**PLUS_RANGES, **SIZE},
}
TIMES = ("seconds", "device_s", "ended")
SYSTEMS = (MUNET, MU2NET, MU2NET_PLUS)
EACH = pytest.mark.parametrize("method", SYSTEMS, ids=lambda method: method.name)
MOSTLY_SLOW = pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[] if m is MU2NET_PLUS else pytest.mark.slow) for m in SYSTEMS],
    ids=lambda method: method.name,
)


def experiment(method: Method):
    flops = 1e5 if method is MU2NET_PLUS else 0.0
    return tiny(
        method=method,
        ranges=RANGES[method.name],
        score=Score(0.99, 1e4, flops),
        samples_per_task=4,
        children_per_generation=2,
        max_population=3,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run of each method: store and events."""
    runs = {}

    def run(method: Method):
        if method.name not in runs:
            directory = tmp_path_factory.mktemp(method.name) / "store"
            runs[method.name] = (
                ModelStore(directory, create=True),
                list(start(directory, experiment(method)).run()),
            )
        return runs[method.name]

    return run


@MOSTLY_SLOW
def test_stopped_anywhere_and_resumed_equals_never_stopped(method, finished, tmp_path):
    store, events = finished(method)
    runs = start(tmp_path / "store", experiment(method)).run()
    for stop_after in (1, 4, 2, 7, 3):
        for _ in range(stop_after):
            next(runs, None)
        runs = Run.resume(ModelStore(tmp_path / "store"), TINY.name, tasks).run()
    list(runs)
    assert published(ModelStore(tmp_path / "store")) == published(store)
    histories = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in p.history]
        for p, _ in (load(s, TINY.name) for s in (store, ModelStore(tmp_path / "store")))
    ]
    assert histories[0] == histories[1]
    assert len(histories[0]) == sum(isinstance(e, ChildTrained) for e in events)


@MOSTLY_SLOW
def test_what_is_frozen_never_changes(method, finished, tmp_path):
    """While other tasks change, a published version's components and answers stay."""
    store, _ = finished(method)
    digests: dict[str, set[str]] = {}
    search = start(tmp_path / "store", experiment(method))
    for event in search.run():
        if isinstance(event, TaskPublished):
            reopened = ModelStore(tmp_path / "store")
            for task in reopened.tasks():
                for version in reopened.history(task):
                    key = f"{task} v{version.version}"
                    made_of = {version.digest, *version.path.components.values()}
                    assert digests.setdefault(key, made_of) == made_of
    assert verify_store(store) == []
    locked = [c for c in search.population.components() if c.locks]
    assert locked and all(store.put(c.params) == c.digest for c in locked)


@EACH
def test_nothing_starts_from_a_private_task(method, finished):
    store, _ = finished(method)
    progress, _ = load(store, TINY.name)
    from_private = [r for r in progress.history if r["parent_task"] == "toy/c"]
    assert {row["task"] for row in from_private} <= {"toy/c"}


@EACH
def test_the_retained_path_is_the_best_that_was_kept(method, finished):
    """By the score it had when it was trained: sharing only makes it cheaper."""
    store, _ = finished(method)
    progress, population = load(store, TINY.name)
    for task in store.tasks():
        kept = [r for r in progress.history if r["task"] == task and r["improved"]]
        (best,) = population.paths[task]
        assert population.score(best) >= max(row["score"] for row in kept) - 0.01


@EACH
def test_children_of_a_generation_share_their_data_hyperparameters(method, finished):
    store, _ = finished(method)
    progress, _ = load(store, TINY.name)
    generations: dict[tuple, set] = {}
    for row in progress.history:
        data = {k: v for k, v in row["hyperparameters"].items() if k.startswith("ds_")}
        key = (row["iteration"], row["generation"])
        generations.setdefault(key, set()).add(tuple(sorted(data.items())))
    assert len(generations) == 12 and all(len(seen) == 1 for seen in generations.values())


def test_munet_first_tries_every_seed_as_it_is(finished):
    """The newest first, with nothing but a new head to train (evolution/SYSTEMS.md, Parents)."""
    store, _ = finished(MUNET)
    progress, _ = load(store, TINY.name)
    by_iteration = [[r for r in progress.history if r["iteration"] == i] for i in range(3)]
    # a: the root; b: a's path and the root; c: b's, a's and the root.
    assert [row["parent_task"] for row in by_iteration[1][:2]] == ["toy/a", ROOT]
    assert [row["parent_task"] for row in by_iteration[2][:3]] == ["toy/b", "toy/a", ROOT]
    for row in (by_iteration[0][0], *by_iteration[1][:2], *by_iteration[2][:3]):
        assert row["trained"] == ["head"] and row["mutations"] == {}
    assert "encoder_norm" in by_iteration[0][1]["trained"]


def test_mu2net_mutates_from_the_first_child_on(finished):
    store, _ = finished(MU2NET)
    progress, _ = load(store, TINY.name)
    assert all("encoder_norm" in row["trained"] for row in progress.history)


def test_mu2net_plus_learns_rates_and_holds_its_data_until_a_path_exists(finished):
    store, _ = finished(MU2NET_PLUS)
    progress, _ = load(store, TINY.name)
    for row in progress.history:
        table = {k for k in row["hyperparameters"] if k.startswith("_mu_|")}
        assert "_mu_|hp:opt_lr" in table and "_mu_|clone:encoder_norm" not in table
    first = [row for row in progress.history if (row["iteration"], row["generation"]) == (0, 0)]
    for row in first:
        data = {k: v for k, v in row["hyperparameters"].items() if k.startswith("ds_")}
        assert data.items() <= TINY.defaults.items()


def test_mu2net_plus_scores_size_and_compute(finished):
    store, _ = finished(MU2NET_PLUS)
    progress, _ = load(store, TINY.name)
    row = progress.history[0]
    cost = row["accounted_params"] / 1e4 + row["flops"] / 1e5
    assert row["score"] == pytest.approx(row["quality"] * 0.99**cost)


def test_a_run_continues_the_system_of_another(finished, tmp_path):
    """Its paths are parents, its tasks stand in the new store too, untouched."""
    store, _ = finished(MU2NET)
    further = tiny(name="further", method=MU2NET_PLUS, ranges={}, tasks=("toy/d",), passes=1)
    copied = ModelStore(tmp_path / "store", create=True)
    search = Run.extend(further, copied, 0, tasks, (store, TINY.name))
    events = list(search.run())
    assert copied.tasks() == ["toy/a", "toy/b", "toy/c", "toy/d"]
    assert verify_store(copied) == []
    for task in store.tasks():
        assert copied.resolve(task).digest == store.resolve(task).digest
    parents = {e.outcome.parent.task for e in events if isinstance(e, ChildTrained)}
    assert parents - {"toy/d", ROOT} <= {"toy/a", "toy/b"}  # toy/c is private
    former, _ = load(store, TINY.name)
    continued, _ = load(copied, "further")
    assert continued.history[: len(former.history)] == former.history
    assert len(continued.history) == len(former.history) + TINY.samples_per_task
    used = {c.id for c in search.population.paths["toy/d"][0].components}
    older = {c.id for path in search.population if path.task != "toy/d" for c in path.components}
    assert used & older


def test_a_run_that_was_stopped_in_the_middle_can_be_continued_by_another(tmp_path):
    """Its task under way is finished with the best path it had; nothing of it stays unlocked."""
    runs = start(tmp_path / "store").run()
    for _ in range(14):  # in the second pass of toy/a, which has a retained path and a candidate
        next(runs)
    further = tiny(name="further", tasks=("toy/d",), passes=1)
    store = ModelStore(tmp_path / "store")
    search = Run.extend(further, store, 0, tasks, (store, TINY.name))
    assert all(len(paths) == 1 for paths in search.population.paths.values())
    assert all(c.locks for c in search.population.components())
    assert "toy/d" in {e.task for e in search.run()}


def test_replicas_of_an_experiment_live_in_one_store(tmp_path):
    experiment = tiny(tasks=("toy/a",), passes=1, samples_per_task=1)
    for seed in (0, 1):
        list(start(tmp_path / "store", experiment, seed, f"seed-{seed}").run())
    store = ModelStore(tmp_path / "store")
    assert store.agents() == ["seed-0", "seed-1"]
    assert [p.path.lineage["seed"] for p in store.history("toy/a")] == [0, 1]


def test_a_whole_run_compiles_no_more_than_its_shapes_need(tmp_path):
    """depth + 2 programs to train and one to evaluate, however many children and tasks."""
    forget_programs()
    events = list(start(tmp_path / "store").run())
    assert sum(isinstance(event, ChildTrained) for event in events) == 18
    assert 0 < compiled_programs() <= ROOT_ARCH.num_layers + 2 + 1
