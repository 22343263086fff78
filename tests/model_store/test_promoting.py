"""Of several who publish a task at once, the best is served."""

import random
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from model_store import ModelStore, Published, UnknownTask, UnknownVersion
from model_store.upkeep import verify_store
from tests.model_store.places import Place
from tests.model_store.processes import start
from tests.model_store.samples import arrays, blob_file, new_store, path


def offer(store: ModelStore, score: float) -> int:
    """Publish a version that nobody is served; its number."""
    components = {"head": store.put(arrays(1))}
    return store.publish(path("t", components, metrics={"score": score}), live=False).version


def better_than(score: float, live: Published | None) -> bool:
    """Whether a version of this score should replace the live one."""
    return live is None or score > live.path.metrics["score"]


def test_a_version_is_served_if_it_is_better(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    served: list[tuple[bool, int]] = []
    for number, score in enumerate((0.5, 0.4, 0.45, 0.6), start=1):
        assert offer(store, score) == number
        done = store.promote("t", number, lambda live, score=score: better_than(score, live))
        served.append((done, ModelStore(store.url).resolve("t").version))
    assert served == [(True, 1), (False, 1), (False, 1), (True, 4)]
    assert store.live()["t"][0] == 4


def test_a_version_that_is_served_already_is_not_compared(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    number = offer(store, 0.5)
    assert store.promote("t", number, lambda _: True)
    assert store.promote("t", number, lambda _: pytest.fail("asked"))


def test_it_is_asked_again_when_another_comes_in_between(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for score in (0.1, 0.2, 0.3):
        offer(store, score)
    store.rollback("t", 1)
    seen: list[int] = []

    def better(live: Published | None) -> bool:
        assert live
        seen.append(live.version)
        if len(seen) == 1:
            store.rollback("t", 3)
        return better_than(0.2, live)

    assert not store.promote("t", 2, better)
    assert seen == [1, 3] and store.resolve("t").version == 3


def test_a_version_removed_in_between_is_not_served(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for score in (0.1, 0.2):
        offer(store, score)
    store.rollback("t", 1)

    def remove(live: Published | None) -> bool:
        store.rm("t", 2)
        return True

    with pytest.raises(UnknownVersion):
        store.promote("t", 2, remove)
    with pytest.raises(UnknownVersion):
        store.promote("t", 2, lambda _: True)
    with pytest.raises(UnknownTask):
        store.promote("u", 1, lambda _: True)
    assert store.resolve("t").version == 1 and verify_store(store) == []


def test_what_cannot_be_read_gives_way(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for score in (0.9, 0.1):
        offer(store, score)
    store.rollback("t", 1)
    blob_file(store, store.resolve("t").digest).unlink()
    assert store.promote("t", 2, lambda live: better_than(0.1, live))
    assert store.resolve("t").version == 2


def offer_and_promote(place: Place, seed: int, count: int, answers: Connection) -> None:
    """Publish versions of random scores, and let the best of all be served."""
    store = place.open()
    scores = random.Random(seed)
    for _ in range(count):
        score = scores.random()
        number = offer(store, score)
        store.promote("t", number, lambda live, score=score: better_than(score, live))
        answers.send((number, score))
    answers.send(None)


def test_of_many_processes_that_publish_at_once_the_best_is_served(place: Place) -> None:
    store = place.open(create=True)
    started = [start(offer_and_promote, place, seed, 4) for seed in range(4)]
    offered: dict[int, float] = {}
    for _, answers in started:
        while answer := answers.recv():
            offered[answer[0]] = answer[1]
    assert len(offered) == 16
    history = {item.version: item.path.metrics["score"] for item in store.history("t")}
    assert history == offered
    assert store.resolve("t").path.metrics["score"] == max(offered.values())
    assert verify_store(store) == []
