"""The index of publications that agents share: what it holds, and what it costs."""

import logging
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock, patch

import pytest

from evolution.agents import agent as agents
from evolution.agents import kinds
from evolution.agents.kinds import AgentClass
from evolution.agents.publication_index import PARTS, PublicationIndex, part_of
from evolution.events import TaskFailed
from evolution.runs.removal import remove
from evolution.state import PUBLICATIONS, StateError
from model_store import ModelStore
from model_store.upkeep import collect_garbage, verify_store
from tests.evolution.agent_systems import THREE, publish, run, tiny_classes
from tests.model_store.memory_s3 import MemoryS3, memory_s3

MINE = "three:toy/mine"
APART = tuple({part_of(f"toy/{i}"): f"toy/{i}" for i in reversed(range(40))}.values())[:8]


class NoChildren:
    """A cycle that samples nothing: what it costs is its start and its end."""

    complete = True

    def __init__(self, _experiment, _population, progress, _owner, _children, publisher) -> None:
        self._progress, self._publisher = progress, publisher

    def finish(self) -> TaskFailed:
        self._progress.iteration += 1
        self._publisher.save()
        return TaskFailed("toy/mine")


@pytest.fixture
def idle_agents(monkeypatch) -> Iterator[None]:
    childless = {"three": AgentClass(THREE, children=lambda *_: None)}
    monkeypatch.setattr(agents, "Cycle", NoChildren)
    with tiny_classes(), patch.object(kinds, "CLASSES", childless):
        yield


def publish_all(store: ModelStore, tasks: Iterator[str] | tuple[str, ...], seed: int) -> None:
    for i, task in enumerate(tasks):
        publish(store, f"other/{task}", task, 100 * seed + i)


@pytest.fixture
def s3(tmp_path, monkeypatch) -> Iterator[MemoryS3]:
    monkeypatch.setenv("MUNET_CACHE", str(tmp_path / "cache"))
    with memory_s3() as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


def test_a_cycle_costs_what_changed_however_many_agents_there_are(s3, idle_agents):
    """In requests of an object store, for 10 and 24 other agents."""
    costs = []
    for others in (10, 24):
        store = ModelStore(f"s3://bucket/{others}", create=True)
        publish_all(store, (*APART, *(f"toy/more{i}" for i in range(others - 8))), 0)
        run(store, MINE)
        run(store, MINE, 2)  # by now this machine has read the index
        found = []
        for cycle, changed in enumerate((0, 4, 8), 3):
            publish_all(ModelStore(store.url), APART[:changed], cycle)
            s3.asked.clear()
            run(store, MINE, cycle)
            found.append(len(s3.asked))
        costs.append(found)
    assert costs[0] == costs[1]
    idle, four, eight = costs[0]
    assert idle < 70 and eight - four == pytest.approx(four - idle, rel=0.1)


def test_what_one_agent_has_read_no_other_reads(s3, tmp_path, monkeypatch):
    store = ModelStore("s3://bucket/store", create=True)
    publish_all(store, (f"toy/{i}" for i in range(40)), 0)
    found = []
    for machine in ("a", "b"):
        monkeypatch.setenv("MUNET_CACHE", str(tmp_path / machine))
        index = PublicationIndex(ModelStore(store.url))
        s3.asked.clear()
        found.append(index.look())
    assert found[0] == found[1] and len(found[1].publications) == 40
    read = {request.key for request in s3.asked if request.method == "GET"}
    assert len([key for key in read if "/refs/tasks/" in key]) == 0
    assert len([key for key in read if "/blobs/" in key]) <= 2 * (PARTS + 1)


@pytest.fixture
def store(tmp_path) -> ModelStore:
    return ModelStore(tmp_path / "store", create=True)


def test_it_is_what_is_published(store):
    index, other = PublicationIndex(store), PublicationIndex(ModelStore(store.url))
    assert index.look().publications == [] and PUBLICATIONS not in store.agents()
    for seed, (agent, task) in enumerate([("x", "toy/b"), ("y", "toy/b"), ("x", "toy/b")]):
        publish(store, agent, task, seed, private=seed == 1)
        assert index.look().publications == other.look().publications == store.publications()
    assert [p.path.private for p in index.look().publications] == [True, False]
    store.rm("toy/b")
    assert index.look().publications == other.look().publications == []
    assert len(collect_garbage(store, grace_s=0).removed) > 0
    assert PublicationIndex(store).look().publications == [] and verify_store(store) == []


def test_of_two_agents_that_add_at_once_nothing_is_lost(store, monkeypatch):
    publish(store, "x", "toy/b", 1)
    index, other = PublicationIndex(store), PublicationIndex(ModelStore(store.url))
    read, overtaken = store.publications, []

    def meanwhile():
        found = read()
        if not overtaken:
            publish(ModelStore(store.url), "y", "toy/c", 2)
            overtaken.append(other.look())
        return found

    monkeypatch.setattr(store, "publications", meanwhile)
    assert [p.task for p in index.look().publications] == ["toy/b"]  # as it was when it looked
    assert [p.task for p in index.look().publications] == ["toy/b", "toy/c"]
    assert index.look() == other.look() == overtaken[0]


def test_one_that_is_damaged_is_made_again(store, caplog):
    publish(store, "x", "toy/b", 1)
    (digest,) = PublicationIndex(store).look().parts.values()
    (Path(store.url) / "blobs/sha256" / digest[7:]).unlink()
    with caplog.at_level(logging.WARNING):
        found = PublicationIndex(ModelStore(store.url)).look()
    assert "event=index_made_again" in caplog.text
    assert found.publications == store.publications() and verify_store(store) == []


def test_it_goes_with_the_last_agent(store, idle_agents):
    publish(store, "x", "toy/b", 1)
    store.save_agent("a-run", {"agent": ""}, [])
    for task in ("toy/mine", "toy/b"):
        run(store, f"three:{task}")
    digest = store.publications()[0].path.components["head"]
    store.rm("toy/b")
    for agent, kept in (("three/toy/mine", True), ("three/toy/b", False)):
        remove(store, agent)
        assert (PUBLICATIONS in store.agents()) is kept
        assert (digest in collect_garbage(store, grace_s=0).removed) is not kept


def test_a_stopped_cycle_sees_what_it_began_with(store, monkeypatch):
    """Others' paths have the same numbers, components and locks, though they publish meanwhile."""
    seen = []

    class Stopping(NoChildren):
        complete = False

        def __init__(self, _experiment, population, *others) -> None:
            super().__init__(_experiment, population, *others)
            for path in population:
                components = [
                    (c.id, c.digest, c.momentum_digest, sorted(c.locks)) for c in path.components
                ]
                parent = path.parent and path.parent.id
                row = path.id, path.owner, path.published, parent, path.quality, components
                seen[-1].append(row)

        def generation(self) -> list[TaskFailed]:
            return [TaskFailed("toy/mine")]

    first = publish(store, "three/toy/mine", "toy/mine", 1)
    shared = {"encoder_norm": first.path.components["encoder_norm"]}
    publish(store, "x", "toy/b", 2, shared=shared)
    lineage = {"agent": "y", "method": "mu3net", "parent": first.digest}
    publish(store, "y", "toy/c", 3, lineage=lineage)
    childless = {"three": AgentClass(THREE, children=lambda *_: None)}
    monkeypatch.setattr(agents, "Cycle", Stopping)
    with tiny_classes(), patch.object(kinds, "CLASSES", childless):
        for changed in range(3):
            seen.append([])
            run(store, MINE, stop_after=1)
            publish(store, "x", "toy/b", 10 + changed)
            store.rm("toy/c") if changed == 0 else None
            collect_garbage(store, grace_s=0)
            store = ModelStore(store.url)
    assert len(seen) == 3 and len(seen[0]) == 4 and seen[0] == seen[1] == seen[2]


def test_a_cycle_of_an_earlier_version_is_refused(store, idle_agents):
    run(store, MINE)
    document = store.load_agent("three/toy/mine")
    store.save_agent("three/toy/mine", {**document, "snapshot": "sha256:" + "0" * 64}, [])
    with pytest.raises(StateError, match="munet runs rm three/toy/mine"):
        run(store, MINE, 2)


def test_the_index_outlasts_an_agent_that_is_killed_between_a_part_and_its_state(
    store, idle_agents, monkeypatch
):
    """The part is garbage then, and the next agent puts it again."""
    publish(store, "x", "toy/b", 1)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(store, "save_agent", Mock(side_effect=KeyboardInterrupt))
        PublicationIndex(store).look()
    assert PUBLICATIONS not in store.agents()
    collect_garbage(store, grace_s=0)
    run(store, MINE)
    assert store.load_agent(PUBLICATIONS)["parts"] and verify_store(store) == []
