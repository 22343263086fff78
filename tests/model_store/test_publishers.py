"""What each publisher has published last, read again only where something changed."""

import random
import shutil
from pathlib import Path

import pytest

from model_store import ModelStore, StoreNotFound
from tests.model_store.places import Place
from tests.model_store.samples import arrays, document, new_store, path


def publish(store: ModelStore, task: str, agent: str, seed: int = 0, **changes: object) -> int:
    """A version of an agent, not served; its number."""
    lineage = {"agent": agent, "seed": seed}
    spec = path(task, {"head": store.put(arrays(1))}, lineage=lineage, **changes)
    return store.publish(spec, live=False).version


def newest(store: ModelStore) -> list[tuple[str, int, str]]:
    """Task, version and publisher of each publication."""
    return [(p.task, p.version, p.path.lineage["agent"]) for p in store.publications()]


def test_the_newest_of_each_publisher_of_each_task(place: Place) -> None:
    store = place.open(create=True)
    assert store.publications() == []
    random_ = random.Random(0)
    expected: dict[tuple[str, str], int] = {}
    for seed in range(24):
        task, agent = random_.choice(["a", "a/b", "c"]), random_.choice(["x", "y/z"])
        expected[task, agent] = publish(store, task, agent, seed)
        if seed % 8 == 0:
            assert len(store.publications()) == len(expected)
    rows = sorted((task, number, agent) for (task, agent), number in expected.items())
    assert newest(store) == newest(place.open()) == rows
    for item in store.publications():
        assert item == store.resolve(item.task, item.version)


def test_a_removed_version_gives_way_to_the_one_before(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for agent, seed in (("x", 1), ("x", 2), ("y", 3), ("x", 4)):
        publish(store, "t", agent, seed)
    assert newest(store) == [("t", 3, "y"), ("t", 4, "x")]
    store.rm("t", 4)
    assert newest(store) == newest(ModelStore(store.url)) == [("t", 2, "x"), ("t", 3, "y")]
    store.rm("t")
    assert newest(store) == []


def test_private_ones_and_those_of_nobody_are_told_too(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", "x", private=True)
    store.publish(path("t", {"head": store.put(arrays(1))}))
    assert [(p.version, p.path.private) for p in store.publications()] == [(1, True), (2, False)]


def test_equal_versions_are_told_apart(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    first, again = publish(store, "t", "x"), publish(store, "t", "x")
    assert first != again and newest(store) == [("t", again, "x")]
    store.rm("t", again)
    assert newest(store) == [("t", first, "x")]


def test_damaged_ones_are_left_out(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for task, agent, seed in (("a", "x", 1), ("a", "x", 2), ("b", "x", 3), ("c", "x", 4)):
        publish(store, task, agent, seed)
    digest = store.resolve("a", 2).digest
    blob = Path(store.url) / "blobs/sha256" / digest[7:]
    good = blob.read_bytes()
    blob.unlink()
    ref = document(store, "b")
    content = ref.read_text()
    ref.write_text("nonsense\n")
    for stranger in ("refs/tasks/folder/v1", "refs/tasks/%2F"):
        file = Path(store.url) / stranger
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert newest(store) == [("a", 1, "x"), ("c", 1, "x")]
    blob.write_bytes(good)  # restored
    ref.write_text(content)
    assert newest(store) == [("a", 2, "x"), ("b", 1, "x"), ("c", 1, "x")]


def test_one_that_was_superseded_may_be_damaged_when_it_is_wanted_again(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for seed in (1, 2, 3):
        publish(store, "t", "x", seed)
    digest = store.resolve("t", 2).digest
    assert newest(store) == [("t", 3, "x")]
    store.rm("t", 3)
    (Path(store.url) / "blobs/sha256" / digest[7:]).unlink()
    assert newest(store) == [("t", 1, "x")]


def test_a_second_call_reads_only_what_is_new(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = place.open(create=True)
    for number in range(8):
        publish(store, f"t{number}", "x")
    storage = store.storage
    read: list[str] = []
    load, read_many = storage.load, storage.read_many

    def counting_load(key: str, limit: int | None) -> memoryview | None:
        read.append(key)
        return load(key, limit)

    def counting_read_many(keys: list[str]) -> object:
        wanted = list(keys)
        read.extend(wanted)
        return read_many(wanted)

    monkeypatch.setattr(storage, "load", counting_load)
    monkeypatch.setattr(storage, "read_many", counting_read_many)
    first = store.publications()
    assert len(first) == 8 and len(read) == 8 * 3  # ref, manifest and path spec
    read.clear()
    assert store.publications() == first and read == []
    publish(place.open(), "t7", "x", 1)
    assert store.publications() != first and len(read) == 3


def test_a_store_that_is_gone_has_not_lost_its_publications(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", "x")
    assert len(store.publications()) == 1
    shutil.rmtree(store.url)
    with pytest.raises(StoreNotFound):
        store.publications()
