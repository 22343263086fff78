"""What makes room for another path, and what stays."""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from model_store import CorruptBlob, Published
from service.metrics.instruments import Metrics
from service.tasks import residency as residency_module
from service.tasks.eviction import Budget, NoRoom, OverBudget, Recency
from service.tasks.residency import Residency
from tests.service.systems import TINY, publish
from tests.service.tasks.residencies import BODY, LARGE, Holder, Reader, blob, held
from tests.service.waiting import PATIENCE_S, eventually


@dataclass
class Small:
    """A store of tasks that share all but the head, and room for some of them."""

    store: Reader
    tasks: list[Published]
    recency: Recency
    residency: Residency

    @classmethod
    def of(cls, root: Path, count: int, fits: float) -> Small:
        store = Reader(root)
        tasks = [publish(store, f"t{i}") for i in range(count)]
        shared, own = cls.bytes(tasks[0])
        metrics = Metrics()
        recency = Recency(metrics)
        budget = Budget(shared + fits * own, recency)
        return cls(store, tasks, recency, Residency(store, lambda _, tree: tree, metrics, budget))

    @staticmethod
    def bytes(published: Published) -> tuple[int, int]:
        own = held(published, "head")
        return held(published) - own, own

    def load(self, number: int, *, pinned: bool = False) -> Holder:
        holder = Holder(self.residency.load(self.tasks[number], pinned=pinned), pinned=pinned)
        self.recency.used(holder)
        return holder


def test_the_least_recently_used_path_makes_room_and_shared_components_stay(tmp_path: Path) -> None:
    small = Small.of(tmp_path, 4, fits=2)
    first, second = small.load(0), small.load(1)
    small.recency.used(first)
    reads = len(small.store.reads)
    third = small.load(2)
    assert second.path is None and first.path and third.path
    assert small.store.reads[reads:] == [small.tasks[2].path.components["head"]]
    shared, own = Small.bytes(small.tasks[0])
    assert small.residency.usage().size_bytes == shared + 2 * own


def test_what_a_request_uses_is_not_evicted_and_a_load_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    monkeypatch.setattr(residency_module, "ROOM_WAIT_S", PATIENCE_S)

    def pause(seconds: float) -> None:
        looks.append(seconds)
        sleep(seconds)

    sleep = time.sleep
    monkeypatch.setattr(residency_module.time, "sleep", pause)
    small = Small.of(tmp_path, 3, fits=2)
    holders = [small.load(0), small.load(1)]
    in_flight = [holder.path for holder in holders]
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(small.load, 2)
        eventually(lambda: len(looks) > 2)  # it has found no room, again and again
        assert not job.done()
        assert all(holder.path for holder in holders)
        in_flight.pop(0)
        assert job.result(60).path
    assert [holder.path is None for holder in holders] == [True, False]


def test_no_room_is_said_when_all_stays_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.tasks.residency.ROOM_WAIT_S", 0.05)
    small = Small.of(tmp_path, 2, fits=1)
    holder = small.load(0)
    in_flight = holder.path
    with pytest.raises(NoRoom, match="MUNET_MEMORY_BUDGET"):
        small.load(1)
    assert holder.path is in_flight
    del in_flight
    assert small.load(1).path


def test_a_path_that_can_never_fit_is_refused_before_anything_goes(tmp_path: Path) -> None:
    small = Small.of(tmp_path, 1, fits=1)
    holder = small.load(0)
    large = publish(small.store, "large", replace(TINY, num_classes=500))
    with pytest.raises(OverBudget, match="raise it"):
        small.residency.load(large)
    assert holder.path


def test_pinned_paths_stay_and_leave_room_for_others(tmp_path: Path) -> None:
    store = Reader(tmp_path)
    own = {name: 1 for name in TINY.component_names}
    tasks = [publish(store, f"t{i}", own={k: i + 1 for k in own}) for i in range(4)]
    each = held(tasks[0])
    metrics = Metrics()
    recency = Recency(metrics)
    loaded = Residency(store, lambda _, tree: tree, metrics, Budget(3 * each, recency))
    pinned = [Holder(loaded.load(task, pinned=True), pinned=True) for task in tasks[:2]]
    for holder in pinned:
        recency.used(holder)
    with pytest.raises(OverBudget, match="MUNET_PIN"):
        loaded.load(tasks[2], pinned=True)
    for _ in range(2):  # all others take turns in what is left
        for task in tasks[2:]:
            other = Holder(loaded.load(task))
            recency.used(other)
    assert all(holder.path for holder in pinned)
    assert loaded.usage().size_bytes == 3 * each


def test_many_loads_at_once_never_take_more_than_the_budget(tmp_path: Path) -> None:
    small = Small.of(tmp_path, 12, fits=3)
    most = 0

    def work(number: int) -> None:
        nonlocal most
        for turn in range(20):
            holder = small.load((number * 5 + turn) % 12)
            most = max(most, small.residency.usage().size_bytes)
            del holder

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(3)))  # as many at once as fit
    assert most <= small.residency._budget.limit_bytes
    gc.collect()
    assert small.residency.usage().size_bytes == 0


class Whole:
    """A store of tasks that share nothing, and room for this many of them."""

    def __init__(self, root: Path, fits: float) -> None:
        self.store = Reader(root)
        self.metrics = Metrics()
        self.recency = Recency(self.metrics)
        self.each = held(self.publish("first", 1))
        budget = Budget(fits * self.each, self.recency)
        self.residency = Residency(self.store, lambda _, tree: tree, self.metrics, budget)

    def publish(self, task: str, seed: int) -> Published:
        return publish(self.store, task, own=dict.fromkeys(TINY.component_names, seed))

    def load(self, published: Published, *, pinned: bool = False) -> Holder:
        holder = Holder(self.residency.load(published, pinned=pinned), pinned=pinned)
        self.recency.used(holder)
        return holder


def test_a_pinned_version_that_does_not_fit_beside_the_old_one_evicts_nobody(
    tmp_path: Path,
) -> None:
    whole = Whole(tmp_path, fits=1.9)
    old = whole.load(whole.publish("pinned", 1), pinned=True)
    small = publish(whole.store, "small", own={"head": 2, **dict.fromkeys(BODY, 1)})
    other = whole.load(small)
    new = whole.publish("pinned", 3)
    for pinned in (True, False):  # also one that is asked for by its number
        with pytest.raises(OverBudget, match="until a new one takes over"):
            whole.load(new, pinned=pinned)
    assert other.path
    old.path = None
    assert whole.load(new, pinned=True).path


def test_nothing_is_evicted_where_all_of_it_would_not_be_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.tasks.residency.ROOM_WAIT_S", 0.05)
    whole = Whole(tmp_path, fits=2.5)
    others = [whole.load(whole.publish(f"t{seed}", seed)) for seed in (1, 2)]
    whole.store.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(whole.load, whole.publish("hanging", 3))
        eventually(lambda: others[0].path is None)  # made room for it
        large = publish(whole.store, "large", replace(TINY, num_layers=5), own=LARGE)
        try:
            with pytest.raises(NoRoom):
                whole.load(large)
            assert others[1].path
        finally:
            whole.store.gate.set()
        job.result(60)


def test_pins_that_load_at_once_leave_room_for_others(tmp_path: Path) -> None:
    whole = Whole(tmp_path, fits=3)
    tasks = [whole.publish(f"t{seed}", seed) for seed in range(1, 5)]
    whole.store.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(whole.load, task, pinned=True) for task in tasks]
        try:
            eventually(lambda: sum(job.done() for job in jobs) == 2)
        finally:
            whole.store.gate.set()
    assert sum(isinstance(job.exception(), OverBudget) for job in jobs) == 2


def test_a_pin_that_fails_to_load_or_is_freed_counts_no_more(tmp_path: Path) -> None:
    whole = Whole(tmp_path, fits=1)
    broken = whole.publish("broken", 2)
    blob(whole.store, broken.path.components["head"]).write_bytes(b"torn")
    with pytest.raises(CorruptBlob):
        whole.load(broken, pinned=True)
    for seed in (3, 4):
        assert whole.load(whole.publish(f"t{seed}", seed), pinned=True).path
