"""Evolution's own state in the store."""

from pathlib import Path

import pytest

from model_store import Digest, MissingComponent, ModelStore, Unstorable
from tests.model_store.samples import arrays, files, new_store


def test_state_is_kept_with_its_components(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    assert store.load_agent("vit/cmaterdb/bangla") is None
    head = store.put(arrays(1))
    momentum = store.put(arrays(2))
    document = {"generation": 3, "head": head, "momentum": momentum, "scores": [0.5, None]}
    digest = store.save_agent("vit/cmaterdb/bangla", document, iter([head, momentum, head]))
    store.gc(grace_s=0)
    again = ModelStore(store.url)
    assert again.load_agent("vit/cmaterdb/bangla") == document
    assert again.agents() == ["vit/cmaterdb/bangla"]
    assert again.size(momentum) > 0 and again.size(head) > 0
    assert again.tasks() == [] and again.live() == {}
    assert again.verify() == []
    assert again.save_agent("vit/cmaterdb/bangla", document, [head, momentum]) == digest


def test_a_new_state_replaces_the_old_one(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    old = store.put(arrays(1))
    store.save_agent("a", {"n": 1}, [old])
    store.save_agent("b", {"n": 2}, [])
    store.save_agent("a", {"n": 3}, [])
    assert store.gc(grace_s=0).removed.count(old) == 1
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
