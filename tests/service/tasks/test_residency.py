"""Components in memory: read once, shared, verified, freed with the last path."""

from __future__ import annotations

import gc
import math
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store import CorruptBlob, Digest, Malformed, ModelStore, Published
from service.compute.paths import LoadedPath, elements
from service.metrics.instruments import Metrics
from service.tasks import residency as residency_module
from service.tasks.eviction import Budget, NoRoom, OverBudget, Recency
from service.tasks.residency import Residency
from service.tasks.specs import UnservablePath
from tests.service.systems import TINY, multipath, publish, random_component
from tests.service.waiting import PATIENCE_S, eventually

BODY = [name for name in TINY.component_names if name != "head"]
LARGE = dict.fromkeys(replace(TINY, num_layers=5).component_names, 9)


class Reader(ModelStore):
    """A store that counts reads, and can hold them up."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, create=True)
        self.reads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.stuck: set[str] | None = None  # what the gate holds up; None: everything

    def component(self, digest: str, limit: int | None = None) -> Any:
        self.reads.append(digest)
        if self.stuck is None or digest in self.stuck:
            assert self.gate.wait(60)
        return super().component(digest, limit)


def residency(store: ModelStore) -> Residency:
    metrics = Metrics()
    return Residency(store, lambda _, tree: tree, metrics, Budget(math.inf, Recency(metrics)))


def held(published: Published, *names: str) -> int:
    """Bytes in memory of some components, or of all: a head of TINY has 16 classes there."""
    sizes = {**published.sizes, "head": 4 * 16 * (TINY.width + 1)}
    return sum(sizes[name] for name in names or sizes)


def blob(store: ModelStore, digest: Digest) -> Path:
    return Path(store.url) / "blobs" / "sha256" / digest.removeprefix("sha256:")


def test_paths_share_components_and_stages(tmp_path: Path) -> None:
    store = Reader(tmp_path)
    loaded = residency(store)
    first = publish(store, "one")
    second = publish(store, "other", own={"encoderblock_1": 1})
    one, other = loaded.load(first), loaded.load(second)
    ours, theirs = one.walks[0].stages, other.walks[0].stages
    assert ours[0] is theirs[0]
    assert ours[1] is theirs[1]
    assert ours[2] is not theirs[2]
    assert ours[3] is not theirs[3]
    assert ours[3].components[0] is theirs[3].components[0]  # the norm, not the head
    assert len(store.reads) == len(set(store.reads)) == 9
    usage = loaded.usage()
    assert usage.components == 9
    assert usage.size_bytes == held(first) + held(second, "encoderblock_1", "head")


def test_components_are_freed_with_their_last_path(tmp_path: Path) -> None:
    store = Reader(tmp_path)
    loaded = residency(store)
    one = loaded.load(publish(store, "one"))
    other = loaded.load(publish(store, "other", own={"encoderblock_1": 1}))
    in_flight = one.walks
    del one
    assert (loaded.usage().components, loaded.usage().releases) == (9, 0)
    del in_flight
    assert (loaded.usage().components, loaded.usage().releases) == (7, 2)
    del other
    assert (loaded.usage().components, loaded.usage().size_bytes) == (0, 0)
    assert loaded.usage().releases == 9


def test_a_multipath_version_counts_what_it_adds_and_leaves_what_others_use(
    tmp_path: Path,
) -> None:
    store = Reader(tmp_path)
    parts = [publish(store, "main"), publish(store, "other", own={"encoderblock_1": 1})]
    mixed = store.publish(multipath(store, "mixed", parts))
    metrics = Metrics()
    recency = Recency(metrics)
    added = sum(mixed.sizes[name] for name in ("multipath_router", "head_adapter_path_1"))
    everything = held(parts[0]) + held(parts[1], "encoderblock_1") + added
    budget = Budget(everything + held(parts[1], "head") - 1, recency)
    loaded = Residency(store, lambda _, tree: tree, metrics, budget)
    main, both = Holder(loaded.load(parts[0])), Holder(loaded.load(mixed))
    assert len(store.reads) == len(set(store.reads)) == 7 + 3  # two of the mixer, and a block
    assert loaded.usage().size_bytes == everything
    recency.used(both)
    recency.used(main)
    more = Holder(loaded.load(parts[1]))  # has only to read its head
    assert both.path is None
    assert main.path and more.path
    assert loaded.usage().components == 9


def test_concurrent_loads_of_a_component_read_it_once(tmp_path: Path) -> None:
    store = Reader(tmp_path)
    published = publish(store, "one")
    loaded = residency(store)
    store.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(loaded.load, published) for _ in range(8)]
        store.gate.set()
        paths = [job.result(60) for job in jobs]
    assert len(store.reads) == len(published.path.components)
    assert len({id(stage) for path in paths for stage in path.walks[0].stages}) == 4


def test_a_corrupt_component_fails_by_name_and_loads_once_repaired(tmp_path: Path) -> None:
    store = Reader(tmp_path)
    published = publish(store, "one")
    loaded = residency(store)
    file = blob(store, published.path.components["encoderblock_1"])
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(CorruptBlob, match=file.name):
        loaded.load(published)
    assert loaded.usage().components == 0
    file.write_bytes(good)
    assert loaded.load(published).labels == published.path.labels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": {"width": 32}}, "not an architecture"),
        ({"input": {"size": 99}}, "input"),
        ({"labels": ("too", "few")}, "labels"),
        ({"architecture": replace(TINY, num_layers=1).to_json()}, "components"),
    ],
)
def test_paths_that_do_not_fit_are_refused_with_a_reason(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    store = Reader(tmp_path)
    good = publish(store, "one")
    bad = Published(**{
        **{name: getattr(good, name) for name in ("task", "version", "digest", "sizes", "created")},
        "path": replace(good.path, **change),
    })  # fmt: skip
    with pytest.raises(UnservablePath, match=message):
        residency(store).load(bad)
    assert store.reads == []


class Holder:
    """What a slot is to evictions: one path, let go if nobody else holds it."""

    def __init__(self, path: LoadedPath, *, pinned: bool = False) -> None:
        self.path: LoadedPath | None = path
        self.pinned = pinned

    def let_go(self) -> bool:
        held = weakref.ref(self.path)
        self.path = None
        self.path = held()
        return self.path is None


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


def test_a_component_larger_than_its_architecture_says_is_refused(tmp_path: Path) -> None:
    store = Reader(tmp_path)
    path = publish(store, "one").path
    head = store.put(random_component(replace(TINY, num_classes=500), "head", 0))
    bad = store.publish(replace(path, components={**path.components, "head": head}))
    with pytest.raises(Malformed, match="bytes, limit 2112"):
        residency(store).load(replace(bad, sizes={**bad.sizes, "head": 10}))


def test_a_component_that_is_larger_only_as_it_is_held_is_refused(tmp_path: Path) -> None:
    store = Reader(tmp_path)
    path = publish(store, "one").path
    wide = random_component(replace(TINY, num_classes=25), "head", 0)
    head = store.put({name: array.astype(np.float16) for name, array in wide.items()})
    bad = store.publish(replace(path, components={**path.components, "head": head}))
    with pytest.raises(UnservablePath, match="expected at most 2112 bytes"):
        residency(store).load(bad)


def test_narrow_numbers_count_as_they_are_held(tmp_path: Path) -> None:
    store = Reader(tmp_path)
    path = publish(store, "one").path

    def narrow(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {name: narrow(inner) for name, inner in tree.items()}
        return tree.astype(np.float16)

    components = {
        name: store.put(narrow(store.component(digest))) for name, digest in path.components.items()
    }
    loaded = residency(store)
    kept = loaded.load(store.publish(replace(path, components=components)))
    arrays = sum(4 * elements(store.component(digest)) for digest in components.values())
    padding = 4 * (16 - TINY.num_classes) * (TINY.width + 1)
    headers = 500  # of files that are smaller than their headers
    assert 0 <= loaded.usage().size_bytes - arrays - padding < headers
    del kept


class Whole:
    """A store of tasks that share nothing, and room for so many of them."""

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


def test_reads_that_hang_hold_up_no_other_load(tmp_path: Path) -> None:
    store = Reader(tmp_path)
    loaded = residency(store)
    hanging = [publish(store, f"h{i}", own={"encoderblock_0": i + 1}) for i in range(10)]
    loaded.load(publish(store, "warm"))
    store.stuck = {task.path.components["encoderblock_0"] for task in hanging}
    store.gate.clear()
    with ThreadPoolExecutor(11) as pool:
        jobs = [pool.submit(loaded.load, task) for task in hanging]
        other = publish(store, "other", own={"encoderblock_0": 99, "encoderblock_1": 99})
        assert pool.submit(loaded.load, other).result(60)
        assert not any(job.done() for job in jobs)
        store.gate.set()
