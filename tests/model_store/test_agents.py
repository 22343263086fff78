"""Evolution's own state in the store."""

import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from model_store import AgentMoved, Digest, MissingComponent, ModelStore, Unstorable
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.places import Place
from tests.model_store.processes import start
from tests.model_store.samples import arrays, files, new_store


def test_state_is_kept_with_its_components(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    assert store.load_agent("vit/cmaterdb/bangla") is None
    head = store.put(arrays(1))
    momentum = store.put(arrays(2))
    document = {"generation": 3, "head": head, "momentum": momentum, "scores": [0.5, None]}
    digest = store.save_agent("vit/cmaterdb/bangla", document, iter([head, momentum, head]))
    collect_garbage(store, grace_s=0)
    again = ModelStore(store.url)
    assert again.load_agent("vit/cmaterdb/bangla") == document
    assert again.agents() == ["vit/cmaterdb/bangla"]
    assert again.size(momentum) > 0 and again.size(head) > 0
    assert again.tasks() == [] and again.live() == {}
    assert verify_store(again) == []
    assert again.save_agent("vit/cmaterdb/bangla", document, [head, momentum]) == digest


def test_a_new_state_replaces_the_old_one(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    old = store.put(arrays(1))
    store.save_agent("a", {"n": 1}, [old])
    store.save_agent("b", {"n": 2}, [])
    store.save_agent("a", {"n": 3}, [])
    assert collect_garbage(store, grace_s=0).removed.count(old) == 1
    assert (store.load_agent("a"), store.load_agent("b")) == ({"n": 3}, {"n": 2})


def test_a_state_that_cannot_be_kept_changes_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.save_agent("a", {"n": 1}, [])
    before = files(store)
    with pytest.raises(MissingComponent, match="agent a"):
        store.save_agent("a", {"n": 2}, [Digest("sha256:" + "0" * 64)])
    with pytest.raises(Unstorable, match=r"state of agent a\.n is set"):
        store.save_agent("a", {"n": {1, 2}}, [])
    assert files(store) == before
    assert store.load_agent("a") == {"n": 1}


def test_only_the_state_that_was_read_is_replaced(place: Place) -> None:
    store = place.open(create=True)
    assert store.agent_state("a") is None
    first = store.save_agent("a", {"n": 1}, [], replacing=None)
    assert store.agent_state("a") == (first, {"n": 1})
    second = store.save_agent("a", {"n": 2}, [], replacing=first)
    for stale in (None, first, store.put(arrays(1))):
        with pytest.raises(AgentMoved, match=f"agent a: .* found {second}"):
            store.save_agent("a", {"n": 3}, [], replacing=stale)
        assert place.open().agent_state("a") == (second, {"n": 2})
    with pytest.raises(AgentMoved, match="found None"):
        store.save_agent("b", {"n": 1}, [], replacing=first)
    assert store.agents() == ["a"] and verify_store(store) == []


def test_a_save_may_be_repeated(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    first = store.save_agent("a", {"n": 1}, [], replacing=None)
    assert store.save_agent("a", {"n": 1}, [], replacing=None) == first


def count_up(place: Place, times: int, answers: Connection) -> None:
    """Add to a number in an agent's state, beginning again when another was quicker."""
    store = place.open()
    for _ in range(times):
        while True:
            digest, document = store.agent_state("a") or (None, {"n": 0, "by": None})
            changed = {"n": document["n"] + 1, "by": os.getpid()}
            try:
                store.save_agent("a", changed, [store.put(arrays(changed["n"]))], replacing=digest)
                break
            except AgentMoved:
                continue
    answers.send(None)


def test_of_many_processes_that_save_at_once_no_save_is_lost(place: Place) -> None:
    store = place.open(create=True)
    for _, answers in [start(count_up, place, 4) for _ in range(4)]:
        answers.recv()
    state = store.load_agent("a")
    assert state and state["n"] == 16 and verify_store(store) == []
