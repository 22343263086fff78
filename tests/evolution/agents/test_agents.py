"""Agents in one store: what each does alone, and what it must not notice of the others."""

import string
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np
import pytest

from evolution import state
from evolution.agents.agent import Agent
from evolution.events import ChildTrained, TaskFailed, TaskPublished
from evolution.reports import measures, stored_runs
from evolution.state import StateError
from evolution.training.validation import measured_on
from loadtests.agents.simulation import Cost, Costs, Work, simulate
from model_store import AgentBusy, AgentMoved, ModelStore
from model_store.upkeep import collect_garbage, verify_store
from tests.evolution.agent_systems import publish, run, tiny_classes, versions
from tests.evolution.systems import tasks, toy_task
from vit import Architecture, preprocess
from vit.forward import forward

MINE, OTHER = "three:toy/a", "other/toy/b"
FORWARD = jax.jit(forward, static_argnums=0)


@pytest.fixture(autouse=True)
def small_classes():
    with tiny_classes():
        yield


@pytest.fixture
def store(tmp_path) -> ModelStore:
    return ModelStore(tmp_path / "store", create=True)


def predictions(store: ModelStore) -> dict[str, np.ndarray]:
    """Logits of every version of every task on its test images, from what the store holds."""
    found = {}
    for published in (p for task in store.tasks() for p in store.history(task)):
        path = published.path
        params = {name: store.component(digest) for name, digest in path.components.items()}
        images = preprocess(toy_task(path.task).test.images, path.input["size"])
        arch = Architecture.from_json(path.architecture)
        found[published.digest] = np.asarray(FORWARD(arch, params, images))
    return found


def test_a_cycle_ends_with_a_version_that_says_where_it_comes_from(store):
    *children, published = run(store, MINE)
    assert len(children) == 2 and all(isinstance(e, ChildTrained) for e in children)
    assert isinstance(published, TaskPublished) and published.live
    path = store.resolve("toy/a").path
    assert path.lineage == {
        "agent": "three/toy/a", "experiment": "three", "method": "mu3net", "generation": 2,
        "parent": None, "parent_task": None, "seed": 0,
    } | {"generation": path.lineage["generation"]}  # fmt: skip
    reached = predictions(store)[store.resolve("toy/a").digest].argmax(-1)
    accuracy = float((reached == toy_task("toy/a").test.labels).mean())
    assert accuracy == path.metrics["test"]["accuracy"]
    assert verify_store(store) == []


def test_cycles_are_counted_over_an_agents_life(store):
    run(store, MINE, cycles=2)
    assert run(store, MINE, cycles=2) == []
    events = run(store, MINE, cycles=3)
    assert [e.iteration for e in events if isinstance(e, ChildTrained)] == [2, 2]


@pytest.mark.parametrize("agent_class", ["three", "four"])
def test_stopped_after_any_generation_and_resumed_equals_never_stopped(agent_class, tmp_path):
    """While another agent publishes in between, even in the middle of a cycle."""
    mine = f"{agent_class}:toy/a"
    undisturbed, disturbed = (ModelStore(tmp_path / n, create=True) for n in ("one", "two"))
    for cycle in (1, 2, 3):
        publish(undisturbed, OTHER, "toy/b", cycle)
        run(undisturbed, mine, cycle)
    for cycle, stops in ((1, (1,)), (2, (1, 1)), (3, (2, 1))):
        publish(disturbed, OTHER, "toy/b", cycle)
        for stop in stops:
            run(disturbed, mine, cycle, stop_after=stop)
            if cycle < 3:  # the next cycle begins with it, the present one must not see it
                publish(disturbed, OTHER, "toy/b", cycle + 1)
            publish(disturbed, "late/toy/c", "toy/c", cycle)
            disturbed.rm("toy/c")
        disturbed = ModelStore(tmp_path / "two")  # another process
        run(disturbed, mine, cycle)
    assert versions(disturbed, mine) == versions(undisturbed, mine) != []


def test_what_a_cycle_began_with_is_kept_for_it(store):
    """Its owner removes it and all garbage is collected, while the cycle is stopped."""
    publish(store, OTHER, "toy/b", 1)
    run(store, MINE, stop_after=1)
    store.rm("toy/b")
    collect_garbage(store, grace_s=0)
    run(store, MINE)
    assert len(versions(store, MINE)) == 1 and verify_store(store) == []


def test_nothing_that_is_published_ever_changes(store):
    """Components and predictions of every version, while all agents go on."""
    agents = ["three:toy/a", "three:toy/b", "four:toy/a"]
    for agent in agents:
        run(store, agent)
    before = predictions(store)
    for cycle in (2, 3):
        for agent in agents:
            run(store, agent, cycle)
    after = predictions(ModelStore(store.url))
    assert len(after) > len(before) == 3
    assert all(np.array_equal(after[digest], logits) for digest, logits in before.items())


@pytest.mark.slow
def test_a_hundred_later_publications_of_others_change_nothing(store):
    for agent in (MINE, "four:toy/a", "three:toy/b"):
        run(store, agent)
    before = predictions(store)
    for letter in string.ascii_letters[2:]:
        for agent_class in ("three", "four"):
            run(store, f"{agent_class}:toy/{letter}")
    after = predictions(ModelStore(store.url))
    assert len(after) == 100 + len(before) == 103
    assert all(np.array_equal(after[digest], logits) for digest, logits in before.items())


def test_agents_share_what_they_do_not_change(store):
    for task in ("toy/a", "toy/b"):
        run(store, f"three:{task}")
    used = [d for p in store.publications() for d in p.path.components.values()]
    assert len(set(used)) < len(used)


def test_the_same_seed_gives_the_same_versions_and_agents_draw_for_themselves(tmp_path):
    stores = [ModelStore(tmp_path / str(i), create=True) for i in range(3)]
    for store, seed in zip(stores, (0, 0, 1), strict=True):
        run(store, MINE, seed=seed)
    assert versions(stores[0], MINE) == versions(stores[1], MINE) != versions(stores[2], MINE)
    agents = [state.load(stores[0], "three/toy/a")[0]]
    agents.append(replace(agents[0], agent="three/toy/b"))
    assert agents[0].entropy != agents[1].entropy


def test_a_private_path_is_nobodys_parent_but_its_own_agents(store):
    publish(store, "other/toy/b", "toy/b", 1, private=True)
    run(store, MINE)
    assert {row["parent_task"] for row in history(store, "three/toy/a")} <= {
        "toy/a", "NOT_TRAINABLE",
    }  # fmt: skip
    run(store, "three:private:toy/c", cycles=2)
    assert all(p.path.private for p in store.history("toy/c"))
    assert {row["parent_task"] for row in history(store, "three/toy/c")[2:]} <= {
        "toy/a", "toy/c", "NOT_TRAINABLE",
    }  # fmt: skip


def history(store: ModelStore, agent: str) -> list[dict]:
    return state.load(store, agent)[0].history


def test_the_better_of_several_publishers_is_served(store):
    """By validation, and never for being the later."""
    examples = measured_on("toy/a", toy_task("toy/a").validation, 48)
    told = {"validation": {"accuracy": 0.01, **examples}}
    worse = publish(store, "x/toy/a", "toy/a", 1, metrics=told)
    store.rollback("toy/a", worse.version)
    (published,) = (e for e in run(store, MINE) if isinstance(e, TaskPublished))
    assert published.live
    told = {"validation": {"accuracy": 1.0, **examples}}
    better = publish(store, "y/toy/a", "toy/a", 1, metrics=told)
    store.rollback("toy/a", better.version)
    events = [e for e in run(store, "four:toy/a") if isinstance(e, TaskPublished)]
    assert [e.live for e in events] == [False]
    assert store.live()["toy/a"][0] == better.version


def test_an_agent_is_one_process(store):
    with (
        ModelStore(store.url).hold("three/toy/a"),
        pytest.raises(AgentBusy, match="three/toy/a: held by another process"),
    ):
        run(store, MINE)
    assert store.agents() == []
    assert run(store, MINE)


def test_one_that_was_overtaken_saves_nothing(store):
    """As a process that slept while its lease ran out finds when it wakes."""
    slow = Agent(store, "three", "toy/a", tasks).run(1)
    next(slow)
    other = ModelStore(store.url)
    found = other.agent_state("three/toy/a")
    assert found is not None
    document = found[1]
    other.save_agent("three/toy/a", {**document, "seed": 1}, state.needed(document))
    after = other.agent_state("three/toy/a")
    with pytest.raises(AgentMoved):
        list(slow)
    assert other.agent_state("three/toy/a") == after and "toy/a" not in other.tasks()


def test_one_that_was_overtaken_leaves_what_the_other_sees(store, monkeypatch):
    """Another process has begun the cycle that it was about to begin: that one's state stays."""
    other, read = ModelStore(store.url), store.publications
    begun = {"agent": "three/toy/a", "components": [], "paths": []}

    def overtaken():
        other.save_agent("three/toy/a", begun, ())
        return read()

    monkeypatch.setattr(store, "publications", overtaken)
    with pytest.raises(AgentMoved):
        run(store, MINE)
    assert other.load_agent("three/toy/a") == begun


def test_killed_between_publishing_and_saving_it_publishes_once(store, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("evolution.cycle.published_event", killed)
        run(store, MINE)
    assert len(versions(store, MINE)) == 1
    (published,) = run(store, MINE)
    assert isinstance(published, TaskPublished) and published.version == 1 and published.added
    assert len(versions(store, MINE)) == 1


def test_an_agent_whose_best_path_stays_publishes_no_further_version(store, monkeypatch):
    run(store, MINE)
    monkeypatch.setattr("evolution.cycle.Cycle._bar", lambda *_: np.inf)
    *_, published = run(store, MINE, cycles=2)
    assert isinstance(published, TaskPublished)
    assert (published.version, published.added) == (1, False)


def test_an_agent_without_a_path_tries_again_in_its_next_cycle(store, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("evolution.cycle.Cycle._bar", lambda *_: np.inf)
        assert run(store, MINE)[-1] == TaskFailed("toy/a")
    assert isinstance(run(store, MINE, cycles=2)[-1], TaskPublished)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"seed": 1}, "another seed"),
        ({"settings": ["defaults.opt_lr=0.5"]}, "only samples_per_task"),
        ({"root": "random:Ti/8"}, "another seed, root or setting"),
        ({"settings": ["nonsense=1"]}, "there is no such key"),
    ],
)
def test_an_agent_goes_on_as_it_began(store, others, message):
    run(store, MINE, stop_after=1)
    with pytest.raises(StateError, match=message):
        run(store, MINE, **others)


def test_sizes_may_change_and_are_kept(store):
    run(store, MINE, settings=["defaults.opt_lr=0.2"])
    events = run(store, MINE, 2, settings=["defaults.opt_lr=0.2", "samples_per_task=3"])
    assert len([e for e in events if isinstance(e, ChildTrained)]) == 3
    assert len(run(store, MINE, 3)) == 4


def test_agents_of_a_class_have_one_root(store):
    run(store, MINE, stop_after=1)
    with pytest.raises(StateError, match="start from 'random'; leave out --root"):
        run(store, "three:toy/b", root="random:Ti/8")


def test_a_run_and_an_agent_are_not_taken_for_each_other(store):
    from evolution.run import Run

    run(store, MINE)
    with pytest.raises(StateError, match=r"is an agent: continue it with .* --agent three:toy/a"):
        Run.resume(store, "three/toy/a", tasks)
    assert state.runs(store) == ["three/toy/a"]


def test_an_agent_does_not_go_on_from_a_run_of_its_name(store):
    run(store, MINE, stop_after=1)
    document = store.load_agent("three/toy/a")
    assert document is not None
    store.save_agent("three/toy/a", {**document, "agent": ""}, state.needed(document))
    with pytest.raises(StateError, match="found a run's"):
        run(store, MINE)


def test_an_unknown_class_names_those_there_are(store):
    with pytest.raises(StateError, match="CLASS one of\nthree, four"):
        Agent(store, "five", "toy/a", tasks)


def test_all_that_is_saved_of_a_cycle_is_its_own(store):
    """A state grows with what the agent made, not with how many there are."""
    sizes = []
    for others in (1, 20):
        for i in range(others):
            publish(store, f"other/toy/{i}", f"toy/{i}", i)
        run(store, f"three:toy/x{others}", stop_after=1)
        found = store.agent_state(f"three/toy/x{others}")
        assert found is not None
        sizes.append(len(found[1]["paths"]))
    assert max(sizes) <= 2


def test_an_agent_is_analysed_like_a_run(store):
    run(store, "three:toy/b")
    run(store, MINE)
    analysed = stored_runs.load(store, "three/toy/a")
    (standing,) = measures.standings(analysed)
    path = store.resolve("toy/a").path
    assert standing.task == "toy/a" and standing.sampled == 2
    assert standing.test == path.metrics["test"]["accuracy"]
    assert standing.accounted_params == path.parameters["accounted"]
    assert 0 < standing.own_params <= standing.total_params


def test_agents_call_the_store_as_often_as_the_simulation_of_many_says(store, monkeypatch):
    """For each child: saved states; for each publication: what is added to the index, and read."""
    calls = Counter()

    def count(method: str, kind: Callable[[str], str]) -> None:
        really = getattr(ModelStore, method)

        def counted(self, what, *arguments, **named):
            calls[kind(what)] += 1
            return really(self, what, *arguments, **named)

        monkeypatch.setattr(ModelStore, method, counted)

    of_agent = {state.PUBLICATIONS: "index"}
    count("save_agent", lambda name: of_agent.get(name, "save" if "toy/" in name else "root"))
    count("put_part", lambda _: "add")
    count("part", lambda _: "part")
    running = [Agent(ModelStore(store.url), "three", f"toy/{x}", tasks) for x in "ab"]
    events = [e for cycle in (1, 2, 3, 4) for agent in running for e in agent.run(cycle)]
    children = sum(isinstance(event, ChildTrained) for event in events)
    added = sum(isinstance(event, TaskPublished) and event.added for event in events)
    assert children == 16 and added > 1
    work = Work([1.0], foreign=0.0, kept=0.0, published=added / 8, generations=2, children=1)
    found = simulate(2, Costs(*[Cost(0.0, 0.0)] * 15), work, cycles=200, per_task=1)
    saves, index_reads = found.calls["save"] / found.children, found.children / 2 + 2
    assert calls["save"] / children == pytest.approx(saves, rel=0.05)
    # A publication is added by the next agent that looks, and read from there by the other one.
    assert calls["add"] == calls["index"] == pytest.approx(added, abs=1)
    assert found.calls["add"] / found.publications == pytest.approx(1.0, abs=0.1)
    assert calls["part"] <= added
    assert found.calls["part"] - index_reads == pytest.approx(2 * found.publications, rel=0.4)
