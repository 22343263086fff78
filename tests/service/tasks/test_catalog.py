"""The catalog follows a real store; loading is a fake that a test can hold up or fail."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.compute.paths import LoadedPath
from service.errors import Unavailable, UnknownTask
from service.tasks.slot import FIRST_RETRY_S
from tests.service.systems import publish
from tests.service.tasks.loads import loaded
from tests.service.tasks.worlds import World, acquire, answers_with
from tests.service.waiting import eventually


def test_a_task_is_loaded_by_its_first_request_and_once(world: World) -> None:
    publish(world.store, "a/b")
    catalog = world.catalog()
    assert catalog.counts() == {"cold": 1, "loading": 0, "ready": 0, "failed": 0}
    assert acquire(catalog, "a/b").published.task == "a/b"
    assert acquire(catalog, "a/b") is acquire(catalog, "a/b", 1)
    assert world.prepare.loads == [("a/b", 1)]
    assert catalog.counts()["ready"] == 1


def test_requests_for_a_loading_task_wait_for_one_load(world: World) -> None:
    publish(world.store, "slow")
    publish(world.store, "other")
    catalog = world.catalog()
    acquire(catalog, "other")
    world.prepare.gate.clear()

    async def story() -> list[LoadedPath]:
        waiting = [asyncio.create_task(loaded(catalog, "slow")) for _ in range(5)]
        impatient = asyncio.create_task(loaded(catalog, "slow"))
        while catalog.counts()["loading"] == 0:
            await asyncio.sleep(0.01)
        impatient.cancel()  # one client gives up; the load stays for the others
        await asyncio.gather(impatient, return_exceptions=True)
        await loaded(catalog, "other")  # and nobody else waits for it
        world.prepare.gate.set()
        return await asyncio.gather(*waiting)

    assert len({id(path) for path in asyncio.run(story())}) == 1
    assert world.prepare.loads == [("other", 1), ("slow", 1)]


def test_a_task_answers_right_after_its_publication(world: World) -> None:
    """Before the next poll is due: a name nobody knows makes the catalog look."""
    catalog = world.catalog(poll_s=30.0)
    publish(world.store, "new")
    assert acquire(catalog, "new").published.version == 1


def test_names_that_are_like_one_that_is_no_task_s(world: World) -> None:
    for task in ("cmaterdb/bangla", "cmaterdb/telugu", "mnist"):
        publish(world.store, task)
    catalog = world.catalog()
    assert list(catalog.near("cmaterdb/bangle")) == ["cmaterdb/bangla", "cmaterdb/telugu"]
    with pytest.raises(UnknownTask) as unknown:  # some may be private: it names none
        acquire(catalog, "cmaterdb/bangle")
    assert unknown.value.nearest == ()
    assert "bangla" not in unknown.value.detail
    with pytest.raises(UnknownTask) as unknown:
        acquire(catalog, "x" * 5000)
    assert len(unknown.value.detail) < 300


def test_a_new_version_is_loaded_before_it_takes_over(world: World) -> None:
    publish(world.store, "a")
    catalog = world.catalog()
    old = acquire(catalog, "a")
    world.prepare.gate.clear()
    publish(world.store, "a", own={"head": 7})
    eventually(lambda: ("a", 2) in world.prepare.loads)
    assert acquire(catalog, "a") is old
    assert catalog.entries()["a"].slot.state == "ready"
    world.prepare.gate.set()
    eventually(answers_with(catalog, "a", 2))
    world.store.rollback("a", 1)
    eventually(answers_with(catalog, "a", 1))
    assert old.published.version == 1  # who holds it may still run it


def test_a_rollback_during_the_load_of_a_new_version_keeps_the_old(world: World) -> None:
    publish(world.store, "a")
    catalog = world.catalog()
    old = acquire(catalog, "a")
    world.prepare.gate.clear()
    publish(world.store, "a", own={"head": 7})
    eventually(lambda: ("a", 2) in world.prepare.loads)
    world.store.rollback("a", 1)
    eventually(lambda: catalog.entries()["a"].successor is None)
    world.prepare.gate.set()
    eventually(lambda: world.metrics.registry.get_sample_value(
        "munet_task_loads_total", {"outcome": "ready"}) == 2.0)  # fmt: skip
    assert acquire(catalog, "a") is old


def test_a_broken_new_version_leaves_the_old_one_answering(world: World) -> None:
    publish(world.store, "a")
    catalog = world.catalog()
    acquire(catalog, "a")
    world.prepare.broken.add(("a", 2))
    publish(world.store, "a", own={"head": 7})
    eventually(lambda: (s := catalog.entries()["a"].successor) and s.failure)
    assert acquire(catalog, "a").published.version == 1
    world.prepare.broken.clear()
    world.now += FIRST_RETRY_S  # then it is tried again without anybody asking
    eventually(answers_with(catalog, "a", 2))


def test_a_new_version_takes_over_when_a_request_for_its_number_loads_it(world: World) -> None:
    """The retry is the request's, not the poll's: that only finds it loaded."""
    publish(world.store, "a")
    catalog = world.catalog(poll_s=30.0)
    acquire(catalog, "a")
    world.prepare.broken.add(("a", 2))
    publish(world.store, "a", own={"head": 7})
    catalog.refresh().result(60)
    eventually(lambda: (s := catalog.entries()["a"].successor) and s.failure)
    world.prepare.broken.clear()
    world.now += FIRST_RETRY_S
    assert acquire(catalog, "a", 2).published.version == 2
    catalog.refresh().result(60)
    eventually(answers_with(catalog, "a", 2))


def test_a_removed_task_is_gone_at_once(world: World) -> None:
    publish(world.store, "a")
    catalog = world.catalog()
    held = acquire(catalog, "a")
    world.metrics.answered(["a"], 200, None)
    world.store.rm("a")
    eventually(lambda: "a" not in catalog.entries())
    with pytest.raises(UnknownTask):
        acquire(catalog, "a")
    assert held.published.task == "a"
    assert 'task="a"' not in world.metrics.exposition().decode()


def test_a_task_removed_before_its_first_request_is_unknown_not_broken(world: World) -> None:
    publish(world.store, "a")
    catalog = world.catalog(poll_s=30.0)
    world.store.rm("a")
    with pytest.raises(UnknownTask):
        acquire(catalog, "a")


def test_a_failure_is_this_tasks_alone_and_is_tried_again_later(world: World) -> None:
    publish(world.store, "bad")
    publish(world.store, "good")
    world.prepare.broken.add(("bad", 1))
    catalog = world.catalog()
    for _ in range(3):
        with pytest.raises(Unavailable, match="broken on purpose") as failed:
            acquire(catalog, "bad")
        assert failed.value.retry_after_s == FIRST_RETRY_S
    assert world.prepare.loads == [("bad", 1)]  # not again and again
    assert acquire(catalog, "good").published.task == "good"
    assert catalog.counts()["failed"] == 1
    world.now += FIRST_RETRY_S
    with pytest.raises(Unavailable) as failed:
        acquire(catalog, "bad")
    assert failed.value.retry_after_s == 2 * FIRST_RETRY_S
    world.prepare.broken.clear()
    world.now += 2 * FIRST_RETRY_S
    assert acquire(catalog, "bad").published.task == "bad"
    assert catalog.counts()["ready"] == 2


def test_an_older_version_that_cannot_be_loaded_is_broken_not_unknown(world: World) -> None:
    for _ in range(2):
        publish(world.store, "a")
    publish(world.store, "a", own={"head": 7})
    world.prepare.broken.add(("a", 1))
    catalog = world.catalog()
    assert acquire(catalog, "a").published.version == 2
    with pytest.raises(Unavailable, match="broken on purpose"):
        acquire(catalog, "a", 1)


def test_preloaded_tasks_make_the_gateway_ready(world: World) -> None:
    publish(world.store, "wanted")
    publish(world.store, "other")
    world.prepare.gate.clear()
    catalog = world.catalog("wanted")
    assert not catalog.ready
    world.prepare.gate.set()
    eventually(lambda: catalog.ready)
    assert world.prepare.loads == [("wanted", 1)]


def test_a_task_added_later_does_not_make_the_gateway_unready(world: World) -> None:
    publish(world.store, "early")
    catalog = world.catalog("*")
    eventually(lambda: catalog.ready)
    world.prepare.gate.clear()
    publish(world.store, "late")
    eventually(lambda: ("late", 1) in world.prepare.loads)
    assert catalog.counts()["loading"] == 1
    assert catalog.ready


def test_an_unreadable_store_ends_nothing(world: World) -> None:
    publish(world.store, "a")
    catalog = world.catalog()
    acquire(catalog, "a")
    refs = Path(world.store.url) / "refs"
    refs.rename(refs.with_name("away"))
    errors = {"outcome": "error"}
    eventually(lambda: world.metrics.registry.get_sample_value("munet_catalog_polls_total", errors))
    assert acquire(catalog, "a").published.version == 1
    refs.with_name("away").rename(refs)
    publish(world.store, "b")
    eventually(lambda: "b" in catalog.entries())


def test_a_look_can_be_asked_for_while_removals_take_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop asks: it must not wait."""
    publish(world.store, "a")
    catalog = world.catalog()
    removing, gate = threading.Event(), threading.Event()

    def forget(_: str) -> None:
        removing.set()
        assert gate.wait(60)

    monkeypatch.setattr(world.metrics, "forget", forget)
    world.store.rm("a")
    assert removing.wait(60)
    with ThreadPoolExecutor(1) as pool:
        try:
            asked = pool.submit(catalog.refresh).result(60)
            assert not asked.done()
        finally:
            gate.set()
