"""Clocks of processes that are an hour ahead or behind: of the others', and of the storage's."""

import time
from pathlib import Path

import pytest

from model_store import DamagedStore, ModelStore
from model_store.files import leases
from model_store.files.gc_handshake import KEY
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.fuzzing_processes import LEASE_S, Counts, Stage, play
from tests.model_store.places import Place
from tests.model_store.samples import arrays, publish

HOUR_S = 3600.0


def set_clock(patch: pytest.MonkeyPatch, ahead_s: float) -> None:
    """Of this process, on the wall."""
    seconds, nanoseconds = time.time, time.time_ns
    patch.setattr(time, "time", lambda: seconds() + ahead_s)
    patch.setattr(time, "time_ns", lambda: nanoseconds() + int(ahead_s * 1e9))


@pytest.mark.parametrize("ahead_s", [-HOUR_S, HOUR_S])
def test_the_grace_of_a_gc_goes_by_the_clock_of_the_storage(
    place: Place, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    store = place.open(create=True)
    digest = store.put(arrays(1))
    set_clock(monkeypatch, ahead_s)
    assert collect_garbage(store, grace_s=HOUR_S / 2).removed == ()
    assert collect_garbage(store, grace_s=0).removed == (digest,)


def test_a_gc_that_does_not_see_its_own_file_goes_by_no_other_clock(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = place.open(create=True)
    digest = store.put(arrays(1))
    set_clock(monkeypatch, HOUR_S)
    storage = store.storage
    with monkeypatch.context() as patch:
        stat = storage.stat
        patch.setattr(storage, "stat", lambda key: None if key == KEY else stat(key))
        with pytest.raises(DamagedStore, match="run gc again"):
            collect_garbage(store, grace_s=HOUR_S / 2)
    assert store.size(digest)
    assert collect_garbage(store, grace_s=HOUR_S / 2).removed == ()


@pytest.mark.parametrize("ahead_s", [-HOUR_S, HOUR_S])
def test_a_version_is_whole_beside_a_gc_whose_clock_is_apart(
    place: Place, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    store = place.open(create=True)
    for seed in (1, 2):
        publish(store, "t", seed)
    with monkeypatch.context() as patch:
        set_clock(patch, ahead_s)
        other = place.open()
        publish(other, "t", 3)
        other.rm("t", 1)
        collect_garbage(other, grace_s=0)
    publish(store, "t", 1)
    collect_garbage(store, grace_s=0)
    for item in place.open().history("t"):
        for digest in item.path.components.values():
            store.component(digest)
    assert verify_store(store) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_processes_whose_clocks_are_apart_lose_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(leases, "LEASE_S", LEASE_S)
    monkeypatch.setattr(leases, "LEASE_POLL_S", 0.1)
    counts = Counts()
    (tmp_path / "logs").mkdir()
    play(Stage(place, None, tmp_path / "logs", (0.0, 1.0)), seed, 2, float("inf"), counts)
    assert counts.lost == []
    assert counts.acknowledged.total() > 20
    assert [p for p in verify_store(ModelStore(place.url)) if p.severity == "error"] == []
