"""Components in memory: read once, shared, verified, freed with the last path."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store import CorruptBlob, Malformed, Published
from service.compute.paths import elements
from service.metrics.instruments import Metrics
from service.tasks.eviction import Budget, Recency
from service.tasks.residency import Residency
from service.tasks.specs import UnservablePath
from tests.service.systems import TINY, multipath, publish, random_component
from tests.service.tasks.residencies import Holder, Reader, blob, held, residency


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
