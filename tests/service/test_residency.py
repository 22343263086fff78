"""Components in memory: read once, shared, verified, freed with the last path."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_store import CorruptBlob, Digest, ModelStore, Published
from service.metrics import Metrics
from service.residency import Residency, UnservablePath
from tests.service.systems import TINY, publish


class Reader(ModelStore):
    """A store that counts reads, and can hold them up."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, create=True)
        self.reads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def component(self, digest: str) -> Any:
        self.reads.append(digest)
        assert self.gate.wait(60)
        return super().component(digest)


def residency(store: ModelStore) -> Residency:
    return Residency(store, lambda _, tree: tree, Metrics())


def blob(store: ModelStore, digest: Digest) -> Path:
    return Path(store.url) / "blobs" / "sha256" / digest.removeprefix("sha256:")


def test_paths_share_components_and_stages(tmp_path: Path) -> None:
    store = Reader(tmp_path)
    loaded = residency(store)
    one = loaded.load(publish(store, "one"))
    other = loaded.load(publish(store, "other", own={"encoderblock_1": 1}))
    assert one.stages[0] is other.stages[0]
    assert one.stages[1] is other.stages[1]
    assert one.stages[2] is not other.stages[2]
    assert one.stages[3] is not other.stages[3]
    assert one.stages[3].components[0] is other.stages[3].components[0]  # the norm, not the head
    assert len(store.reads) == len(set(store.reads)) == 9
    usage = loaded.usage()
    assert usage.components == 9
    assert usage.size_bytes == sum(store.size(digest) for digest in store.reads)


def test_components_are_freed_with_their_last_path(tmp_path: Path) -> None:
    store = Reader(tmp_path)
    loaded = residency(store)
    one = loaded.load(publish(store, "one"))
    other = loaded.load(publish(store, "other", own={"encoderblock_1": 1}))
    in_flight = one.stages
    del one
    assert (loaded.usage().components, loaded.usage().releases) == (9, 0)
    del in_flight
    assert (loaded.usage().components, loaded.usage().releases) == (7, 2)
    del other
    assert (loaded.usage().components, loaded.usage().size_bytes) == (0, 0)
    assert loaded.usage().releases == 9


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
    assert len({id(stage) for path in paths for stage in path.stages}) == 4


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
