"""Versions move between places whole, once, and byte for byte."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model_store import Malformed, ModelStore, UnknownTask
from model_store.errors import ExchangeError
from model_store.exchange.tags import by_task, tag_of, version_tag
from model_store.exchange.transfer import Content, Offer, Report, StorePlace, select, transfer
from model_store.manifest import Descriptor, Manifest
from model_store.upkeep import verify_store
from tests.model_store.samples import arrays, path, publish


def store(directory: Path, name: str) -> ModelStore:
    """An empty store."""
    return ModelStore(directory / name, create=True)


def move(
    source: ModelStore, target: ModelStore, tasks: Sequence[str] = (), *, history: bool = False
) -> Report:
    """Transfer from store to store."""
    return transfer(StorePlace(source), StorePlace(target), tasks, history=history)


def manifests(at: ModelStore) -> dict[str, list[str]]:
    """Task -> the manifests of all its versions."""
    return {task: [item.digest for item in at.history(task)] for task in at.tasks()}


def test_all_live_versions_move_and_what_they_share_moves_once(tmp_path: Path) -> None:
    source, target = store(tmp_path, "a"), store(tmp_path, "b")
    publish(source, "cmaterdb/bangla", 1)
    publish(source, "cmaterdb/telugu", 2)
    report = move(source, target)
    # each has a config, a path spec and a head of its own; the embedding is common
    assert (report.versions, report.moved_blobs, report.present_blobs) == (2, 7, 0)
    assert manifests(target) == manifests(source)
    assert verify_store(target) == []


def test_a_second_time_nothing_moves_and_no_version_is_added(tmp_path: Path) -> None:
    source, target = store(tmp_path, "a"), store(tmp_path, "b")
    publish(source, "a", 1)
    first = move(source, target)
    second = move(source, target)
    assert (second.moved_blobs, second.moved_bytes) == (0, 0)
    assert (second.present_blobs, second.present_bytes) == (first.moved_blobs, first.moved_bytes)
    assert manifests(target) == manifests(source)


def test_only_what_is_lacking_moves(tmp_path: Path) -> None:
    source, target = store(tmp_path, "a"), store(tmp_path, "b")
    publish(source, "a", 1)
    publish(target, "other", 5)  # has the embedding already
    report = move(source, target)
    assert (report.moved_blobs, report.present_blobs) == (3, 1)
    assert set(target.tasks()) == {"a", "other"}


def test_only_the_tasks_asked_for_move(tmp_path: Path) -> None:
    source, target = store(tmp_path, "a"), store(tmp_path, "b")
    for seed, task in enumerate(("one", "two", "three")):
        publish(source, task, seed + 1)
    move(source, target, ["two", "one", "two"])
    assert target.tasks() == ["one", "two"]
    with pytest.raises(UnknownTask):
        move(source, target, ["four"])


def test_the_history_moves_oldest_first_and_the_live_version_is_live(tmp_path: Path) -> None:
    source, target = store(tmp_path, "a"), store(tmp_path, "b")
    for seed in (1, 2, 3):
        publish(source, "a", seed)
    source.rollback("a", 2)
    report = move(source, target, history=True)
    assert report.versions == 3
    assert manifests(target) == manifests(source)
    assert target.resolve("a").version == 2


def test_the_destination_serves_what_the_source_serves(tmp_path: Path) -> None:
    source, mirror = store(tmp_path, "source"), store(tmp_path, "mirror")
    for seed in (1, 2):
        publish(source, "t", seed)
    transfer(StorePlace(source), StorePlace(mirror), history=True)
    for version in (1, 2):
        source.rollback("t", version)
        report = transfer(StorePlace(source), StorePlace(mirror))
        assert report.moved_blobs == 0
        assert mirror.resolve("t").digest == source.resolve("t").digest
    assert len(mirror.history("t")) == 2


def test_without_history_only_the_live_version_moves(tmp_path: Path) -> None:
    source, target = store(tmp_path, "a"), store(tmp_path, "b")
    for seed in (1, 2, 3):
        publish(source, "a", seed)
    source.rollback("a", 2)
    move(source, target)
    assert manifests(target) == {"a": [source.resolve("a", 2).digest]}


def test_more_versions_than_fit_one_batch(tmp_path: Path) -> None:
    source, target = store(tmp_path, "a"), store(tmp_path, "b")
    components = {"head": source.put(arrays(1))}
    for number in range(60):
        source.publish(path("a", components, lineage={"generation": number}))
    report = move(source, target, history=True)
    assert (report.versions, report.moved_blobs) == (60, 1 + 2 * 60)
    assert manifests(target) == manifests(source)


def test_a_manifest_moves_byte_for_byte(tmp_path: Path) -> None:
    """Also one that another program has written in its own way."""
    source, target = store(tmp_path, "a"), store(tmp_path, "b")
    publish(source, "a", 1)
    original = bytes(source.read_blob(source.resolve("a").digest))
    spaced = original.replace(b'","', b'", "').replace(b"{", b'{"x-unknown":1,', 1)
    foreign = source.adopt(spaced)
    source.rollback("a", foreign.version)
    move(source, target)
    assert bytes(target.read_blob(target.resolve("a").digest)) == spaced


class Interrupted(Exception):
    """Somebody pulls the plug."""


class Broken(StorePlace):
    """A place whose connection goes after this many blobs."""

    left = 3

    def write(self, blob: Descriptor, content: Content) -> None:
        """Fails once nothing is left."""
        if not self.left:
            raise Interrupted
        self.left -= 1
        super().write(blob, content)


def test_interrupted_it_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    source, target = store(tmp_path, "a"), store(tmp_path, "b")
    for seed in range(1, 5):
        publish(source, f"task-{seed}", seed)
    with pytest.raises(Interrupted):
        transfer(StorePlace(source), Broken(target))
    assert target.tasks() == []
    report = move(source, target)
    assert (report.moved_blobs, report.present_blobs) == (10, 3)
    assert manifests(target) == manifests(source)


def test_manifests_that_disagree_on_a_size_are_refused(tmp_path: Path) -> None:
    source, target = store(tmp_path, "a"), store(tmp_path, "b")
    publish(source, "a", 1)
    place = StorePlace(source)
    (offer,) = place.offers([], history=False)
    size = Manifest.from_bytes(offer.manifest).layers[1].size
    lying = offer.manifest.replace(f'"size":{size}'.encode(), b'"size":7')

    class Liar(StorePlace):
        def offers(self, tasks: Sequence[str], *, history: bool) -> list[Offer]:
            return [offer, Offer("b", lying, offer.spec)]

    with pytest.raises(Malformed, match="7 bytes for blob"):
        transfer(Liar(source), StorePlace(target))
    assert target.tasks() == []


# -- tags

_SEGMENT = st.text("ab-._Z0v1", min_size=1, max_size=6).filter(lambda part: part not in (".", ".."))
_TASK = st.lists(_SEGMENT, min_size=1, max_size=4).map("/".join)


@given(st.lists(_TASK, min_size=2, max_size=2, unique=True), st.integers(1, 99))
@example(["a-/b", "a/-b"], 1)
@example(["a", "a.v1"], 1)
@example(["a--b", "a/b"], 1)
@example(["x-", "x-c8b60efc"], 1)
@example(["...", "-"], 1)
def test_tags_are_valid_and_no_two_tasks_share_one(tasks: list[str], version: int) -> None:
    tags = [tag for task in tasks for tag in (tag_of(task), version_tag(tag_of(task), version))]
    assert len(set(tags)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", tag) for tag in tags)


@pytest.mark.parametrize(
    ("task", "tag"),
    [
        ("mnist", "mnist"),
        ("cmaterdb/bangla", "cmaterdb--bangla"),
        ("a--b", "a--b-90827a2e"),
        (".hidden", "hidden-16924190"),
        ("t" * 200, "t" * 91 + "-8cbeafc0"),
    ],
)
def test_a_tag_is_the_task_id_where_it_can_be(task: str, tag: str) -> None:
    assert tag_of(task) == tag


def test_versions_are_grouped_by_tag_and_ordered_by_number() -> None:
    tags = ["a.v10", "a.v9", "a", "b.v1", "release", "release.v2"]
    assert by_task(tags) == {"a": ["a.v9", "a.v10"], "b.v1": [], "release": ["release.v2"]}


def test_two_tags_that_disagree_on_a_task_are_an_error(tmp_path: Path) -> None:
    source = store(tmp_path, "a")
    publish(source, "a", 1)
    publish(source, "a", 2)
    old, new = StorePlace(source).offers([], history=True)
    named = {"x": old, "y": new}
    with pytest.raises(ExchangeError, match="'x' and 'y' hold different versions of 'a'"):
        select(named, named.get, [], history=False, where="registry r")
    own = {**named, "a": new}
    assert select(own, own.get, [], history=False, where="registry r") == [new]
