"""A path becomes one version of its task, wherever a run or an agent is killed, and how often."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolution.agents.agent import Agent
from evolution.events import ChildTrained, Event, TaskPublished, TaskWithdrawn
from evolution.run import Run
from evolution.runs.following import line_of
from evolution.single_path import SinglePaths
from model_store import ModelStore, TaskPath
from model_store.names import quote
from tests.evolution.agent_systems import run as run_agent
from tests.evolution.agent_systems import tiny_classes
from tests.evolution.dying_stores import dying, writes_of
from tests.evolution.systems import start, tasks, tiny
from tests.model_store.samples import blob_file

TASK, AGENT = "toy/a", "three:toy/a"
ONE = tiny(tasks=(TASK,), passes=3, samples_per_task=2, children_per_generation=2)
SEED = 4  # with it, and 0 for the agent, each iteration finds a better path


def standing(store: ModelStore) -> tuple[list[str], int | None]:
    """Manifests of the task's versions, and the version that is live."""
    return list(store.versions(TASK).values()), (store.live().get(TASK) or (None,))[0]


@dataclass
class Unfinished:
    """A store with a run or an agent that has trained a task's children and not published."""

    directory: Path
    later: bool  # it has published a version before
    work: Callable[[ModelStore], list[Event]]  # ends the iteration, unless it has ended

    def copy(self, directory: Path) -> Path:
        return Path(shutil.copytree(self.directory, directory))


def unfinished_run(directory: Path, iteration: int) -> Unfinished:
    events = start(directory, ONE, SEED).run()
    for event in events:
        if isinstance(event, ChildTrained) and event.iteration == iteration:
            break
    events.close()

    def work(store: ModelStore) -> list[Event]:
        search, found = Run.resume(store, ONE.name, tasks), []
        if search.progress.iteration == iteration:
            for event in search.run():
                found.append(event)
                search.stopping = not isinstance(event, ChildTrained)
        return found

    return Unfinished(directory, iteration > 0, work)


def unfinished_agent(directory: Path, cycle: int) -> Unfinished:
    store = ModelStore(directory, create=True)
    if cycle > 1:
        run_agent(store, AGENT, cycle - 1)
    events = Agent(store, "three", TASK, tasks).run(cycle)
    next(events), next(events)
    events.close()
    return Unfinished(directory, cycle > 1, lambda store: run_agent(store, AGENT, cycle))


SLOW = [pytest.param(one, marks=pytest.mark.slow) for one in ("later in a run", "agent")]
UNFINISHED = ["run", *SLOW, "later agent"]


@pytest.fixture(scope="module", params=UNFINISHED)
def unfinished(request, tmp_path_factory) -> Iterator[Unfinished]:
    directory = tmp_path_factory.mktemp("unfinished") / "store"
    later = "later" in request.param
    with tiny_classes():
        if "agent" in request.param:
            yield unfinished_agent(directory, 1 + later)
        else:
            yield unfinished_run(directory, int(later))


def ended(unfinished: Unfinished, place: Path, every: bool) -> tuple[list[str], range]:
    """Manifests after an undisturbed end, and the writes of it to be killed at.

    Unless `every` is asked for, those from the first of the task's document to the one after its
    last.
    """
    writes = writes_of(unfinished.copy(place), unfinished.work)
    versions, live = standing(ModelStore(place))
    assert live == len(versions) == 1 + unfinished.later
    of_task = [n for n, (_, key) in enumerate(writes) if key == f"refs/tasks/{quote(TASK)}"]
    return versions, range(len(writes)) if every else range(of_task[0], of_task[-1] + 3)


EVERY = [False, pytest.param(True, marks=pytest.mark.slow)]


@pytest.mark.parametrize("every", EVERY)
def test_killed_at_any_write_and_resumed_it_is_published_once(unfinished, tmp_path, every):
    """Killed at the same write several times in a row, then let go: as if never killed."""
    expected, moments = ended(unfinished, tmp_path / "whole", every)
    for at in moments:
        place = unfinished.copy(tmp_path / str(at))
        for _ in range(2):
            with dying(place, at) as (store, _):
                unfinished.work(store)
        unfinished.work(ModelStore(place))
        assert standing(ModelStore(place)) == (expected, len(expected)), at


@pytest.mark.parametrize("every", EVERY)
def test_what_was_rolled_back_while_it_lay_killed_stays_so(unfinished, tmp_path, every):
    """And what was killed before it was live, becomes so."""
    if not unfinished.later:
        return  # there is nothing to roll back to
    expected, moments = ended(unfinished, tmp_path / "whole", every)
    lives = set()
    for at in moments:
        place = unfinished.copy(tmp_path / str(at))
        with dying(place, at) as (store, _):
            unfinished.work(store)
        _, live = standing(ModelStore(place))
        ModelStore(place).rollback(TASK, 1)
        unfinished.work(ModelStore(place))
        assert standing(ModelStore(place)) == (expected, 2 if live == 1 else 1), at
        lives.add(live)
    assert lives == {1, 2}


def test_what_another_machine_measures_does_not_publish_it_again(unfinished, tmp_path, monkeypatch):
    """Metrics may come out otherwise when a run is resumed elsewhere, or with other settings."""
    expected, moments = ended(unfinished, tmp_path / "whole", every=False)
    spec, measured = SinglePaths.spec, iter(range(1000))

    def elsewhere(self: SinglePaths, path: Any, run: str) -> TaskPath:
        found = spec(self, path, run)
        return replace(found, metrics={**found.metrics, "noise": next(measured)})

    monkeypatch.setattr(SinglePaths, "spec", elsewhere)
    for at in moments[:3]:
        place = unfinished.copy(tmp_path / str(at))
        with dying(place, at) as (store, _):
            unfinished.work(store)
        unfinished.work(ModelStore(place))
        versions, live = standing(ModelStore(place))
        assert len(versions) == live == len(expected), at


# ---- what somebody does between two iterations


@dataclass
class Finished:
    """A store with two versions by a run or an agent, and its next iteration."""

    directory: Path
    run: Callable[[ModelStore], list[Event]]


@pytest.fixture(params=["run", "agent"])
def finished(request, tmp_path, two_iterations) -> Finished:
    directory, work = two_iterations[request.param]
    return Finished(Path(shutil.copytree(directory, tmp_path / "store")), work)


@pytest.fixture(scope="module")
def two_iterations(tmp_path_factory) -> Iterator[dict]:
    folder = tmp_path_factory.mktemp("two")

    def a_run(store: ModelStore) -> list[Event]:
        return list(Run.resume(store, ONE.name, tasks, (TASK,)).run())

    def an_agent(store: ModelStore) -> list[Event]:
        document = store.load_agent("three/toy/a")
        assert document is not None
        return run_agent(store, AGENT, document["iteration"] + 1)

    with tiny_classes():
        list(start(folder / "run", replace(ONE, passes=2), SEED).run())
        run_agent(ModelStore(folder / "agent", create=True), AGENT, 2)
        yield {"run": (folder / "run", a_run), "agent": (folder / "agent", an_agent)}


@pytest.fixture
def no_better(monkeypatch) -> None:
    """No child is good enough: the former path stays."""
    monkeypatch.setattr("evolution.cycle.Cycle._bar", lambda *_: np.inf)


def test_a_rollback_holds_while_the_path_stays(finished, no_better):
    store = ModelStore(finished.directory)
    before = standing(store)
    assert before[1] == 2
    store.rollback(TASK, 1)
    *_, told = finished.run(store)
    assert isinstance(told, TaskPublished) and not told.added and not told.live
    assert standing(store) == (before[0], 1)


def test_a_better_path_is_served_after_a_rollback(finished):
    store = ModelStore(finished.directory)
    store.rollback(TASK, 1)
    added = [e for _ in range(4) for e in finished.run(store) if isinstance(e, TaskPublished)]
    better = [event.version for event in added if event.added]
    assert better and standing(store)[1] == better[-1]


@pytest.mark.parametrize("whole_task", [True, False])
def test_what_was_removed_is_not_published_again(finished, no_better, whole_task):
    store = ModelStore(finished.directory)
    if whole_task:
        store.rm(TASK)
    else:
        store.rollback(TASK, 1)
        store.rm(TASK, 2)
    before = standing(store)
    for _ in range(2):
        *_, told = finished.run(ModelStore(finished.directory))
        assert told == TaskWithdrawn(TASK)
        assert "was removed, and is not published again" in line_of(told)
    assert standing(ModelStore(finished.directory)) == before


def test_an_unreadable_version_of_anybody_stops_nothing(finished):
    """Of the first version a blob is lost; a better path is published next to it."""
    store = ModelStore(finished.directory)
    blob_file(store, store.versions(TASK)[1]).unlink()
    told = [e for _ in range(3) for e in finished.run(ModelStore(finished.directory))]
    assert any(isinstance(e, TaskPublished) and e.version == 3 and e.live for e in told)


# ---- a system that goes on in another store


def test_a_system_that_is_copied_is_published_once(tmp_path, two_iterations):
    """Killed at any write of the copy, and the command said again."""
    source, _ = two_iterations["run"]

    def extend(store: ModelStore) -> None:
        Run.extend(
            replace(ONE, name="next"), store, 0, tasks, (ModelStore(source), ONE.name)
        )  # fmt: skip

    empty = ModelStore(tmp_path / "whole", create=True)
    number = len(writes_of(tmp_path / "whole", extend))
    expected = standing(empty)
    assert expected == ([ModelStore(source).versions(TASK)[2]], 1)
    for at in range(number):
        place = tmp_path / str(at)
        ModelStore(place, create=True)
        for _ in range(2):
            with dying(place, at) as (store, _):
                extend(store)
        extend(ModelStore(place))
        assert standing(ModelStore(place)) == expected, at
