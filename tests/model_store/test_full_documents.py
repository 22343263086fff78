"""A document never grows beyond what its readers take: who would let it is refused, and who makes
it smaller is not.
"""

import os
from pathlib import Path

import pytest

from model_store import ModelStore, Unstorable, refs
from model_store.files.protocol import MAX_SMALL_BYTES
from model_store.refs import MAX_BYTES, Document
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.samples import document, new_store, publish

LIMIT = 4000


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """A store of small documents, with one version of one task."""
    monkeypatch.setattr(refs, "MAX_BYTES", LIMIT)
    store = new_store(tmp_path)
    publish(store, "t", 1)
    return store


def test_the_limit_leaves_room_for_a_repair() -> None:
    assert MAX_BYTES + 2**15 < MAX_SMALL_BYTES


def test_nothing_is_published_that_could_not_be_read_again(store: ModelStore) -> None:
    published = 1
    with pytest.raises(Unstorable, match="remove versions"):
        while published < 100:
            assert publish(store, "t", published + 1) == published + 1
            published += 1
    assert published > 5 and os.path.getsize(document(store, "t")) <= LIMIT
    assert store.resolve("t").version == published and verify_store(store, under_way=True) == []
    for number in range(1, 4):
        store.rm("t", number)  # what makes it smaller is never refused
    assert publish(store, "t", 99) == published + 1


def test_one_that_is_too_large_already_is_made_smaller(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(2, 8):
        publish(store, "t", seed)
    monkeypatch.setattr(refs, "MAX_BYTES", 1000)
    with pytest.raises(Unstorable):
        publish(store, "t", 8)
    with pytest.raises(Unstorable):
        store.alias("t", "a-long-name-that-takes-room", 1)
    store.rm("t", 1)
    store.rm("t")
    assert store.tasks() == []


def test_claims_of_writers_that_died_do_not_end_a_task(store: ModelStore) -> None:
    key = "refs/tasks/t"
    found = Document.from_bytes(key, document(store, "t").read_bytes())
    claims = {f"{number:016x}": store.version("t", 1) for number in range((LIMIT - 500) // 92)}
    full = Document(found.value, claims, found.tokens, found.count).to_bytes(key)
    assert LIMIT - 400 < len(full) <= LIMIT
    document(store, "t").write_bytes(full)
    with pytest.raises(Unstorable, match="gc"):
        for seed in range(2, 10):
            publish(store, "t", seed)
    collect_garbage(store)
    assert publish(store, "t", 20) == store.resolve("t").version
