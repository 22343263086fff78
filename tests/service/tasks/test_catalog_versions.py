"""Versions of a task: older ones, removed, damaged or private ones, and what is told of them."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from model_store import Published
from model_store.versions import Version, Versions
from service.access import Grants
from service.errors import UnknownTask
from service.tasks.older_versions import KEPT
from service.tasks.slot import Slot
from tests.model_store.samples import document, write_value
from tests.service.systems import publish
from tests.service.tasks.worlds import World, acquire
from tests.service.waiting import eventually


def test_older_versions_are_reached_by_number(world: World) -> None:
    for seed in range(6):
        publish(world.store, "a", own={"head": seed})
    catalog = world.catalog()
    for version in (1, 2, 3, 4, 5, 6, 5):
        assert acquire(catalog, "a", version).published.version == version
    assert len(world.prepare.loads) == 6  # 5 was among the last four
    acquire(catalog, "a", 1)
    assert len(world.prepare.loads) == 7
    assert acquire(catalog, "a").published.version == 6
    with pytest.raises(UnknownTask, match="no version 99"):
        acquire(catalog, "a", 99)


def test_numbers_nobody_published_take_no_room(world: World) -> None:
    for seed in range(1 + KEPT):
        publish(world.store, "a", own={"head": seed})
    catalog = world.catalog()
    older = range(1, 1 + KEPT)
    held = [acquire(catalog, "a", version) for version in older]
    for junk in range(90, 90 + 2 * KEPT):
        with pytest.raises(UnknownTask):
            acquire(catalog, "a", junk)
    assert [acquire(catalog, "a", version) for version in older] == held
    assert len(world.prepare.loads) == KEPT


def test_a_removed_older_version_stops_answering(world: World) -> None:
    for seed in range(2):
        publish(world.store, "a", own={"head": seed})
    catalog = world.catalog()
    acquire(catalog, "a", 1)
    world.store.rm("a", 1)

    def gone() -> bool:
        try:
            acquire(catalog, "a", 1)
        except UnknownTask:
            return True
        return False

    eventually(gone)
    assert acquire(catalog, "a").published.version == 2


def test_a_damaged_older_version_holds_up_nothing_else(world: World) -> None:
    for task in ("a", "b"):
        for seed in range(2):
            publish(world.store, task, own={"head": seed})
    catalog = world.catalog(poll_s=30.0)
    held = [acquire(catalog, task, 1) for task in ("a", "b")]
    document(world.store, "a").write_text("damaged")
    world.store.rm("b", 1)
    catalog.refresh().result(60)
    outcomes = {"outcome": "error"}
    errors = world.metrics.registry.get_sample_value("munet_catalog_polls_total", outcomes)
    assert not errors
    with pytest.raises(UnknownTask):
        acquire(catalog, "b", 1)
    assert acquire(catalog, "a", 1) is held[0]  # what has been read goes on answering


def test_a_version_published_anew_is_not_listed_as_it_was(world: World) -> None:
    """As when a store has been made again: the same number, and now it is private."""
    was, now = (publish(world.store, "a", private=private) for private in (False, True))
    slot = Slot(world.loader, "a", 1, was.digest)
    assert not slot.summary().private
    time = "2026-01-01T00:00:00Z"
    value = Versions().add(Version(now.digest, time), live=True).to_json()
    write_value(world.store, "refs/tasks/a", value)
    slot.begin().result(60)
    assert slot.summary().private
    assert slot.digest == now.digest


def test_what_is_known_of_a_version_waits_for_no_thread_that_the_store_holds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop asks for it."""
    slot = Slot(world.loader, "a", 1, publish(world.store, "a").digest)
    resolve, hanging, release = world.store.resolve, threading.Event(), threading.Event()

    def hang_at_first(task: str, version: int | None = None) -> Published:
        if not hanging.is_set():
            hanging.set()
            assert release.wait(60)
        return resolve(task, version)

    monkeypatch.setattr(world.store, "resolve", hang_at_first)
    with ThreadPoolExecutor(2) as threads:
        threads.submit(slot.summary)
        try:
            assert hanging.wait(60)
            slot.begin().result(60)
            assert slot.summarised
            assert threads.submit(slot.summary).result(20).digest == slot.digest
        finally:
            release.set()


def test_what_is_public_follows_the_versions_that_are_read(world: World) -> None:
    """Also where no request asks whether the task is private."""
    publish(world.store, "a")
    catalog = world.catalog()
    assert not catalog.public("a")  # nothing of it has been read
    acquire(catalog, "a")
    assert catalog.public("a")
    publish(world.store, "a", own={"head": 1}, private=True)
    eventually(lambda: not catalog.public("a"))
    publish(world.store, "a", own={"head": 2})
    eventually(lambda: catalog.public("a"))


def test_a_private_version_of_a_public_task_is_refused_before_it_is_loaded(world: World) -> None:
    publish(world.store, "a", private=True)
    publish(world.store, "a", own={"head": 1})
    world.store.alias("a", "first", 1)
    catalog = world.catalog()
    for version in (1, "first"):
        with pytest.raises(UnknownTask, match="has no version 1"):
            asyncio.run(catalog.acquire("a", Grants("x", ("*",)), version))
    assert world.prepare.loads == []
    assert asyncio.run(catalog.acquire("a", Grants("x", ("a",)), 1)).published.version == 1
    found = asyncio.run(catalog.acquire("a", Grants("x", ("*",))))
    assert found.published.version == 2
