"""`munet evolve`: what it trains, within which time, what it says, and how it goes on."""

import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from evolution import state
from evolution.data.tfds_builders import NoSuchTask
from evolution.growing import chosen_settings, growth, starting_point
from evolution.growing.child_lines import Reasons
from evolution.growing.growth import run
from evolution.growing.machine_speed import Machine
from evolution.growing.options import Asked, GrowthError
from evolution.growing.plan import GrowthPlan
from evolution.growing.starting_point import System
from evolution.roots.loading import random_root
from evolution.run import Run
from evolution.runs.listing import listed
from evolution.runs.removal import remove
from evolution.state import StateError
from model_store import ModelStore, TaskPath
from model_store.upkeep import verify_store
from tests.evolution.growing.clocks import Clock
from tests.evolution.systems import ROOT, published, toy_task
from vit import Architecture
from vit.contract import Contract
from vit.decode import VIEWER

MACHINE = Machine("2 cores", False, 1e9)


@pytest.fixture
def evolve(tmp_path, monkeypatch):
    """Grows toy tasks from a tiny root, on small images and in few steps; what it printed."""
    monkeypatch.setattr(starting_point, "read_root", lambda spec: (ROOT, random_root(ROOT)))
    few = {"PATCHES": (ROOT.grid,) * 3, "PASSES": 1, "LEAST_STEPS": 16, "SHORTEST_STEPS": 4}
    for name, value in few.items():
        monkeypatch.setattr(chosen_settings, name, value)

    def growing(*tasks, store="store", clock=None, source=toy_task, **asked):
        console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        run(
            Asked(tasks, str(tmp_path / store), **asked),
            0.0,
            lambda _: source,
            clock or Clock(),
            console,
            lambda: MACHINE,
        )
        return console.export_text()

    return growing


def assert_fits(told):
    """No line is wider than a page, but a command that is to be copied, which is its own line."""
    for line in told.splitlines():
        assert len(line) <= 80 or line.startswith("    munet "), line


def test_a_first_task_is_grown_beside_a_baseline_and_later_ones_share(evolve, tmp_path):
    told = evolve("toy/a", children=2)
    store = ModelStore(tmp_path / "store")
    assert store.agents() == ["evolve/toy/a/1", "evolve/toy/a/1/finetune-all"]
    assert_fits(told)
    assert "linear probe" in told and "child 2 of 2" in told and "baseline" in told
    told = evolve("toy/b", "toy/d", children=1)
    assert "parents   toy/a v" in told and re.search(r"parents   toy/a v\d, toy/b v\d", told)
    assert "baseline" not in told and store.tasks() == ["toy/a", "toy/b", "toy/d"]
    used = [
        {digest for version in store.history(task) for digest in version.path.components.values()}
        for task in store.tasks()
    ]
    assert used[0] & used[1] and used[1] & used[2]
    assert verify_store(store) == []


def test_what_a_check_of_the_pictures_found_is_told_before_training(evolve):
    findings = {"bad": "1 of 9 pictures cannot be used", "alike-names": "a\nb and :two:"}

    def found(name):
        return replace(toy_task(name), data={"name": name, "findings": findings})

    told = evolve("toy/a", children=1, baseline=False, source=found)
    notes = "note      1 of 9 pictures cannot be used", "note      a\\nb and :two:", "parents "
    assert [told.index(note) for note in notes] == sorted(told.index(note) for note in notes)


def test_adopted_networks_of_another_kind_are_parents(evolve, tmp_path):
    """The mean of the patches, exact GELU, and pixels prepared in another way."""
    arch = replace(
        ROOT, pooling="mean", prefix_tokens=0, norm_after_pooling=True, activation="gelu",
        num_classes=2,
    )  # fmt: skip
    store = ModelStore(tmp_path / "store", create=True)
    parts = {name: store.put(params) for name, params in random_root(arch).items()}
    plain = Contract(8, "bilinear", 8, (0.5,) * 3, (0.5,) * 3).to_json()
    adopted = TaskPath(
        task="adopted", labels=("p", "q"), architecture=arch.to_json(), components=parts,
        input={**plain, **VIEWER.to_json()}, hyperparameters={}, metrics={}, parameters={},
        lineage={},
    )  # fmt: skip
    store.publish(adopted)
    told = evolve("toy/b", children=1, baseline=False)
    assert "adopted v1, and the root of adopted v1" in told
    path = store.resolve("toy/b").path
    assert Architecture.from_json(path.architecture) == replace(arch, num_classes=3)
    assert set(path.components.values()) & set(parts.values())
    assert {key: path.input[key] for key in plain} == plain  # as the backbone saw pictures


def test_a_budget_that_is_too_short_still_publishes(evolve, tmp_path):
    """Each look at the clock takes a second, so that one child is all there is time for."""
    told = evolve("toy/a", seconds=3, clock=Clock(step=1), baseline=False)
    assert "too short" in told or "used up" in told
    store = ModelStore(tmp_path / "store")
    assert store.tasks() == ["toy/a"]
    # How many children there will be a budget leaves open; afterwards it is known.
    assert "child 1, at most " in told and "child 1 of" not in told
    (run,) = listed(store)
    assert (run.state, run.progress) == ("finished", "child 1 of 1")


@pytest.mark.parametrize("lines", [1, 4])  # in the search; in its baseline
def test_the_same_command_goes_on_to_what_an_undisturbed_one_publishes(
    evolve, tmp_path, monkeypatch, lines
):
    def dies(reasons, event, line=Reasons.line, told=[]):  # noqa: B006
        told.append(event)
        if len(told) == lines:
            raise RuntimeError("killed")
        return line(reasons, event)

    evolve("toy/a", store="whole", children=3)
    with monkeypatch.context() as patched:
        patched.setattr(Reasons, "line", dies)
        with pytest.raises(RuntimeError, match="killed"):
            evolve("toy/a", children=3)
    assert "going on with run evolve/toy/a/1" in evolve("toy/a")
    stores = [ModelStore(tmp_path / name) for name in ("whole", "store")]
    assert published(stores[0]) == published(stores[1])
    assert stores[0].live() == stores[1].live()


def test_what_waits_for_its_turn_is_waiting_while_its_command_lives(evolve, tmp_path, monkeypatch):
    """Also between the search and its baseline, where neither is under way."""
    seen = []

    def look(name, original):
        def looking(*args, **named):
            seen.append((name, [run.state for run in listed(ModelStore(tmp_path / "store"))]))
            return original(*args, **named)

        monkeypatch.setattr(growth, name, looking)

    look("follow", growth.follow)
    monkeypatch.setattr(Reasons, "line", lambda *_: seen.append(("line", [
        run.state for run in listed(ModelStore(tmp_path / "store"))])) or "")  # fmt: skip
    evolve("toy/a", children=1)
    assert seen == [
        ("follow", ["waiting", "waiting"]),
        ("line", ["running", "waiting"]),
        ("follow", ["finished", "waiting"]),
        ("line", ["finished", "running"]),
    ]
    assert {run.state for run in listed(ModelStore(tmp_path / "store"))} == {"finished"}


def test_what_waits_is_not_removed_and_is_stopped_when_its_command_has_ended(
    evolve, tmp_path, monkeypatch
):
    def dies(*_):
        with pytest.raises(StateError, match="is waiting for its turn"):
            remove(ModelStore(tmp_path / "store"), "evolve/toy/a/1/finetune-all")
        raise RuntimeError("killed")

    monkeypatch.setattr(Reasons, "line", dies)
    with pytest.raises(RuntimeError, match="killed"):
        evolve("toy/a", children=2)
    states = [run.state for run in listed(ModelStore(tmp_path / "store"))]
    assert states == ["stopped", "stopped"]
    remove(ModelStore(tmp_path / "store"), "evolve/toy/a/1/finetune-all")


def test_of_two_commands_at_once_the_second_goes_on_with_what_the_first_began(
    evolve, tmp_path, monkeypatch
):
    told = []

    show = GrowthPlan.show

    def first(plan, console):
        with monkeypatch.context() as patched:
            patched.setattr(GrowthPlan, "show", show)
            told.append(evolve("toy/a", children=1))

    monkeypatch.setattr(GrowthPlan, "show", first)
    second = evolve("toy/a", children=1)
    assert "toy/a is v1" in told[0] and "toy/a is v1" in second
    assert ModelStore(tmp_path / "store").agents() == [
        "evolve/toy/a/1", "evolve/toy/a/1/finetune-all"
    ]  # fmt: skip


def budgets(store):
    """Seconds that each run has in all, by name."""
    opened = ModelStore(store)
    states = {run: state.saved(opened, run)[1] for run in opened.agents()}
    return {run: document["settings"]["budget_s"] for run, document in states.items()}


@pytest.fixture
def begun(evolve, monkeypatch):
    """Begins toy/a, and ends as if it had been killed after 30 s; then nothing is trained."""

    def begin(**asked):
        def dies(search, *_):
            search.progress.history.append({"iteration": 0, "seconds": 30.0})
            search.save()
            raise RuntimeError("killed")

        with monkeypatch.context() as patched:
            patched.setattr(growth, "follow", dies)
            with pytest.raises(RuntimeError, match="killed"):
                evolve("toy/a", **asked)
        monkeypatch.setattr(growth, "follow", lambda search, *_: search.save())

    return begin


def test_a_begun_run_takes_another_budget_and_says_so(evolve, begun, tmp_path):
    """As the time in all: the baseline gets what the search has left of it."""
    begun(seconds=100)
    before = budgets(tmp_path / "store")
    assert before == {"evolve/toy/a/1": 50, "evolve/toy/a/1/finetune-all": 50}
    told = evolve("toy/a", seconds=1000)
    assert "going on with run evolve/toy/a/1" in told and "within 17 min in all" in told
    assert budgets(tmp_path / "store") == {
        "evolve/toy/a/1": 500,
        "evolve/toy/a/1/finetune-all": 970,
    }


def test_a_begun_run_keeps_its_budget_where_none_is_given(evolve, begun, tmp_path):
    begun(seconds=100)
    before = budgets(tmp_path / "store")
    assert "as it was begun" in evolve("toy/a")
    assert budgets(tmp_path / "store") == before


@pytest.mark.parametrize(
    ("asked", "ignored"),
    [
        ({"children": 3}, ""),
        ({"children": 3, "seed": 0, "root": "shipped", "baseline": True}, ""),
        ({"children": 5}, "--children 5"),
        ({"seed": 1, "root": "random:Ti/16"}, "--root random:Ti/16, --seed 1"),
        ({"baseline": False}, "--no-baseline"),
    ],
)
def test_a_begun_run_says_which_options_it_cannot_take(evolve, begun, asked, ignored):
    begun(children=3)
    told = " ".join(evolve("toy/a", **asked).split())
    assert ("begun without" in told) == bool(ignored)
    assert not ignored or f"begun without {ignored}; to start over, first: munet runs rm" in told


def test_a_baseline_that_a_killed_command_left_alone_is_begun_again(evolve, tmp_path, monkeypatch):
    """Killed between the two saves, the same command trains both."""

    def dies(search):
        if "finetune-all" not in search.name:
            raise RuntimeError("killed")
        save(search)

    save = Run.save
    with monkeypatch.context() as patched:
        patched.setattr(Run, "save", dies)
        with pytest.raises(RuntimeError, match="killed"):
            evolve("toy/a", children=1)
    assert "baseline" in evolve("toy/a", children=1)
    assert {run.state for run in listed(ModelStore(tmp_path / "store"))} == {"finished"}


LONG = "a-set-with-a-name-that-is-itself-almost-as-wide-as-the-page-is/and-more-of-it"


def test_no_line_is_wider_than_80_columns(evolve):
    told = evolve(LONG, children=10, seconds=1e6, baseline=False)
    told += evolve(LONG, children=1, seconds=2, clock=Clock(step=1))
    assert_fits(told)
    assert "kept" in told and "too short" in " ".join(told.split())


@pytest.mark.parametrize(
    ("labels", "lineage", "kept"),
    [
        (("x", "y", "z"), {}, True),
        (("0", "1", "2"), {"model": "5"}, True),
        (("0", "1", "2"), {}, False),
        (("0", "1"), {"model": "5"}, False),
    ],
)
def test_own_versions_of_other_classes_are_no_parents(labels, lineage, kept, tmp_path):
    """Classes that an import numbered are not others."""
    store = ModelStore(tmp_path, create=True)
    heads = {"head": store.put({"bias": np.zeros(len(labels), np.float32)})}
    store.publish(TaskPath("toy/a", labels, {}, heads, {}, {}, {}, {}, lineage))
    system = System("root", ROOT, {}, 0, (store.resolve("toy/a"),))
    task = toy_task("toy/a")
    assert len(system.of(task).published) == kept
    assert len(system.of(replace(task, name="toy/b")).published) == 1


def test_an_unknown_task_names_the_nearest_and_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MUNET_DATA", str(tmp_path / "sets"))

    def missing(name):
        raise NoSuchTask(name)

    with pytest.raises(GrowthError, match=r"munet data add flowrs --from"):
        run(Asked(("flowrs",), str(tmp_path / "store")), 0.0, lambda _: missing,
            machine=lambda: MACHINE)  # fmt: skip
    assert not (tmp_path / "store").exists()


def test_a_name_that_is_no_tasks_is_refused_as_that(evolve, tmp_path):
    ModelStore(tmp_path / "store", create=True)
    with pytest.raises(GrowthError, match=r"^task 'my photos': expected"):
        evolve("my photos", children=1)
