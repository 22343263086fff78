"""Versions that go back to cold and come again; loads that wait hold up nobody."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store import ModelStore, Published
from service.compute.paths import LoadedPath
from service.errors import Unavailable
from service.metrics.instruments import Metrics
from service.tasks import load_slots, loader
from service.tasks.catalog import Catalog
from service.tasks.eviction import NoRoom, Recency
from service.tasks.loader import Loader
from service.tasks.slot import FIRST_RETRY_S, LONGEST_RETRY_S, Slot
from tests.service.systems import publish
from tests.service.tasks.loads import loaded
from tests.service.waiting import PATIENCE_S, eventually


class Held:
    """A version in memory."""

    pinned = False
    path = None

    def let_go(self) -> bool:
        return True


def test_nothing_is_kept_of_versions_that_are_gone() -> None:
    """However many come and go without an eviction."""
    recency = Recency(Metrics())
    kept = Held()
    for holder in (kept, Held(), Held()):
        recency.used(holder)  # pyright: ignore[reportArgumentType]
    del holder
    assert len(recency._used) == 1 and recency.evict() and not recency.evict()


class Store:
    """A catalog whose loads can be held up, broken or left without room, task by task."""

    def __init__(self, root: Path) -> None:
        self.now = 100.0
        self.store = ModelStore(root, create=True)
        self.metrics = Metrics()
        self.recency = Recency(self.metrics, lambda: self.now)
        self.loader = Loader(
            self.store, self.prepare, self.metrics, self.recency, threads=2, clock=lambda: self.now
        )
        self.loads: list[str] = []
        self.held: set[str] = set()
        self.broken: set[str] = set()
        self.crowded: set[str] = set()
        self.gate = threading.Event()
        self.catalogs: list[Catalog] = []

    def prepare(self, published: Published, *, pinned: bool) -> LoadedPath:
        task = published.task
        self.loads.append(task)
        if task in self.held:
            assert self.gate.wait(60)
        if task in self.broken:
            raise RuntimeError("broken on purpose")
        if task in self.crowded:
            raise NoRoom("all is in use")
        return LoadedPath(published, (), 1.0)

    def serve(
        self, *tasks: str, preload: tuple[str, ...] = (), pins: tuple[str, ...] = ()
    ) -> Catalog:
        for task in tasks:
            publish(self.store, task)
        made = Catalog(self.loader, self.metrics, poll_s=0.02, preload=preload, pins=pins)
        made.start()
        self.catalogs.append(made)
        return made

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.gate.set()
    for catalog in made.catalogs:
        catalog.stop()
    made.loader.close()


def acquire(catalog: Catalog, task: str) -> LoadedPath:
    return asyncio.run(loaded(catalog, task))


def let_go(catalog: Catalog, *tasks: str) -> None:
    """Waits until no thread holds what it has just loaded: only the slot does."""
    for task in tasks:
        slot = catalog.entries()[task].slot
        eventually(lambda slot=slot: sys.getrefcount(slot._path) == 2)  # and this call


def state(catalog: Catalog, task: str) -> str:
    return catalog.entries()[task].slot.state


def test_the_task_not_asked_for_the_longest_goes_and_its_next_request_loads_it(
    world: Store,
) -> None:
    catalog = world.serve("a", "b", "c")
    for task in ("a", "b", "c"):
        acquire(catalog, task)
        world.now += 1
    acquire(catalog, "a")
    world.now += 5
    let_go(catalog, "a", "b", "c")
    assert world.recency.evict()
    assert [state(catalog, task) for task in "abc"] == ["ready", "cold", "ready"]
    assert world.value("munet_evictions_total") == 1
    assert world.value("munet_age_at_eviction_seconds_sum") == 7
    assert world.value("munet_cache_misses_total") == 3
    acquire(catalog, "b")
    assert world.value("munet_cache_misses_total") == 4
    assert world.value("munet_cache_miss_duration_seconds_count") == 4
    assert world.loads == ["a", "b", "c", "b"]


def test_a_task_in_use_stays(world: Store) -> None:
    catalog = world.serve("a", "b")
    used = acquire(catalog, "a")
    acquire(catalog, "b")
    eventually(world.recency.evict)
    assert [state(catalog, task) for task in "ab"] == ["ready", "cold"]
    assert not world.recency.evict()
    assert acquire(catalog, "a") is used
    del used
    eventually(world.recency.evict)


def test_pinned_tasks_stay(world: Store) -> None:
    catalog = world.serve("a/one", "a/two", "b", pins=("a/*",))
    for task in ("a/one", "a/two", "b"):
        acquire(catalog, task)
    eventually(world.recency.evict)
    assert not world.recency.evict()
    assert [state(catalog, task) for task in ("a/one", "a/two", "b")] == ["ready", "ready", "cold"]


def test_a_removed_task_is_freed_and_forgotten_by_evictions(world: Store) -> None:
    catalog = world.serve("a")
    path = weakref.ref(acquire(catalog, "a"))
    world.store.rm("a")
    eventually(lambda: path() is None)
    assert not world.recency.evict()


def test_without_room_a_task_is_refused_for_now_and_not_failed(world: Store) -> None:
    catalog = world.serve("a")
    world.crowded.add("a")
    with pytest.raises(Unavailable, match="all is in use") as refused:
        acquire(catalog, "a")
    assert refused.value.retry_after_s == 1
    assert state(catalog, "a") == "cold"
    world.crowded.clear()
    assert acquire(catalog, "a")


def test_preloaded_tasks_that_were_evicted_again_do_not_keep_the_gateway_unready(
    world: Store,
) -> None:
    world.held.add("b")
    catalog = world.serve("a", "b", preload=("*",))
    eventually(lambda: state(catalog, "a") == "ready")
    assert not catalog.ready
    eventually(world.recency.evict)
    world.gate.set()
    eventually(lambda: catalog.ready)
    assert state(catalog, "a") == "cold"


def test_a_version_without_room_is_tried_again_after_pauses_that_double(world: Store) -> None:
    catalog = world.serve("a")
    acquire(catalog, "a")
    world.crowded.add("a")
    publish(world.store, "a", own={"head": 99})
    for pause_s in (1, 2, 4):
        eventually(lambda: (s := catalog.entries()["a"].successor) and s.state == "cold")
        loads = len(world.loads)
        world.now += pause_s * 0.9
        catalog.refresh().result(60)
        catalog.refresh().result(60)
        assert len(world.loads) == loads
        world.now += pause_s * 0.2
        eventually(lambda loads=loads: len(world.loads) > loads)
    assert acquire(catalog, "a").published.version == 1
    world.crowded.clear()
    world.now += 60
    eventually(lambda: acquire(catalog, "a").published.version == 2)


def test_the_longest_pause_stays_however_often_a_load_fails(world: Store) -> None:
    world.broken.add("a")
    slot = Slot(world.loader, "a", 1, publish(world.store, "a").digest)
    for _ in range(1100):
        assert isinstance(slot.begin().exception(60), Unavailable)
        world.now += LONGEST_RETRY_S
    assert slot.failure is not None and slot.failure.attempts == 1100


def test_a_task_in_use_is_ready_all_the_time(world: Store) -> None:
    """Also while an eviction finds out that it is in use."""
    catalog = world.serve("a")
    used = acquire(catalog, "a")
    slot = catalog.entries()["a"].slot
    over = threading.Event()

    def evict() -> None:
        while not over.is_set():
            slot.let_go()

    thread = threading.Thread(target=evict)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads interrupt one another anywhere
    thread.start()
    try:
        assert {slot.state for _ in range(20_000)} == {"ready"}
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval_s)
    assert slot.path is used


def test_loads_that_hang_hold_up_others_only_for_a_moment(world: Store) -> None:
    """Twice as many as may compute at once."""
    names = [f"hanging{i}" for i in range(4)]
    world.held.update(names)
    catalog = world.serve(*names, "good", preload=tuple(names))
    eventually(lambda: world.loads)
    assert acquire(catalog, "good")
    assert catalog.counts() == {"cold": 0, "loading": 4, "ready": 1, "failed": 0}


def test_loads_that_compute_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_slots, "SLOW_S", 60.0)
    world = Store(tmp_path)
    names = [f"busy{i}" for i in range(4)]
    world.held.update(names)
    catalog = world.serve(*names, preload=("*",))
    eventually(lambda: len(world.loads) == 2)
    assert catalog.counts()["loading"] == 4
    world.gate.set()
    eventually(lambda: catalog.counts()["ready"] == 4)
    catalog.stop()
    world.loader.close()


def test_retries_that_hang_take_no_thread_from_other_tasks(
    world: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a store does not answer for tasks that have failed before."""
    monkeypatch.setattr(load_slots, "SLOW_S", 0.01)
    dead = [f"dead{i:02}" for i in range(loader.LOADS + 2)]
    world.broken.update(dead)
    catalog = world.serve(*dead, "good")

    async def ask() -> None:
        await asyncio.gather(*(loaded(catalog, task) for task in dead), return_exceptions=True)

    asyncio.run(ask())
    world.held.update(dead)
    world.now += FIRST_RETRY_S

    async def ask_again() -> LoadedPath:
        waiting = [asyncio.create_task(loaded(catalog, task)) for task in dead]
        try:
            return await loaded(catalog, "good")
        finally:
            world.gate.set()
            await asyncio.gather(*waiting, return_exceptions=True)

    assert asyncio.run(ask_again()).published.task == "good"


def test_requests_and_evictions_at_once_disturb_neither(world: Store) -> None:
    """All are asked for all the time: what is evicted comes back, and no request fails."""
    names = [f"t{i}" for i in range(4)]
    catalog = world.serve(*names)
    over = threading.Event()

    def evict() -> None:
        while not over.is_set():
            world.recency.evict()

    thread = threading.Thread(target=evict)
    thread.start()

    async def ask() -> None:
        end, turn = time.monotonic() + PATIENCE_S, 0
        while turn < 2000 or not (world.value("munet_evictions_total") or time.monotonic() > end):
            await loaded(catalog, names[turn % 4])
            turn += 1

    try:
        asyncio.run(ask())
    finally:
        over.set()
        thread.join()
    assert world.value("munet_evictions_total")
