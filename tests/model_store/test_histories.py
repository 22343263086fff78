"""Histories of several processes, of which one is overtaken at a chosen call, and perhaps stopped.

It may die there: what the others were told is done stays done, the store is whole, and
so is what the slow one did, if it was done.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from model_store import CorruptBlob, Malformed, ModelStore
from model_store.exchange.oci_layout import LayoutPlace
from model_store.exchange.signing import verify
from model_store.exchange.transfer import Report, StorePlace, transfer
from model_store.manifest import Descriptor
from model_store.upkeep import verify_store
from tests.model_store.gates import ACTIONS, ENDS, PUBLIC_KEY, End, Gate, Slow, publish
from tests.model_store.histories import CUT, FACTS, TASK, attempt, prepared, require_sound, seeds
from tests.model_store.places import local_place
from tests.model_store.samples import blob_file


@pytest.fixture(autouse=True)
def nothing_is_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cuts are not the subject."""
    monkeypatch.setattr("os.fsync", lambda _: None)


# -- one is overtaken

CLAIMED = Gate("replace", TASK, 1, after=True)  # of a publisher, before it looks for a gc
SECURED = Gate("settle", "blobs/sha256")  # it has touched all that the manifest needs
SWAPS = Gate("replace", TASK, 2)
SWAPPED = Gate("replace", TASK, 2, after=True)  # and nobody has been told
AGENT = "refs/agents/agent"
PIN = "refs/pins/keep"
HISTORIES: dict[str, tuple[str, Sequence[Gate], Sequence[str]]] = {
    "two publish the same path": (
        "publish 9",
        (Gate("read", TASK, 2), CLAIMED, SECURED, SWAPS, SWAPPED),
        ("publish 9",),
    ),
    "what is published is removed": (
        "publish 9",
        (CLAIMED, SWAPS, SWAPPED),
        ("remove t", "publish 9", "gc"),
    ),
    "a publisher sleeps through a gc": ("publish 9", (CLAIMED, SECURED, SWAPS, SWAPPED), ("gc",)),
    "what is rolled back to is removed": (
        "roll back to 1",
        (Gate("replace", TASK), Gate("replace", TASK, after=True)),
        ("remove 1", "roll back to 3", "remove 2", "gc"),
    ),
    "the state before a save is collected": (
        "save 2",
        tuple(Gate("replace", AGENT, n, after) for n in (1, 2) for after in (False, True)),
        ("gc",),
    ),
    "the manifest pinned before is collected": (
        "pin 3",
        tuple(Gate("replace", PIN, n, after) for n in (1, 2) for after in (False, True)),
        ("remove 1", "gc"),
    ),
    # neighbours of these
    "two publish the same path next to what is live": (
        "publish 9 without serving it",
        (CLAIMED, SWAPS, SWAPPED),
        ("publish 9 without serving it",),
    ),
    "what gets a name is removed": (
        "alias 1",
        (Gate("replace", TASK), Gate("replace", TASK, after=True)),
        ("remove 1", "gc"),
    ),
    "what is promoted is removed": (
        "promote 1",
        (Gate("replace", TASK), Gate("replace", TASK, after=True)),
        ("remove 1", "gc"),
    ),
    "a removal is overtaken by a rollback": (
        "remove 1",
        (Gate("replace", TASK), Gate("replace", TASK, after=True)),
        ("roll back to 1", "remove 1"),
    ),
}


class Stage:
    """A store that each run gets a copy of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        template = prepared(local_place(folder))
        template.pin("keep", template.resolve("t", 1).digest)
        self._template = template.url
        self._runs = 0

    def play(self, first: str, gate: Gate, others: Sequence[str], end: End) -> bool:
        """Require that nothing is lost; False if the first ended before it came to the gate."""
        self._runs += 1
        folder = self._folder / str(self._runs)
        shutil.copytree(self._template, folder / "store")
        place = local_place(folder)
        process = Slow(place, first, gate)
        try:
            if not process.arrives():
                return False
            done = set[str]().union(*(attempt(place.open(), other) for other in others))
            if process.ends(end) == "done":
                done.add(first)
        finally:
            process.stop()
        require_sound(place, done)
        shutil.rmtree(folder)
        return True


@pytest.mark.parametrize("history", list(HISTORIES)[:6])  # the others are their neighbours
def test_nobody_undoes_what_somebody_else_was_told(tmp_path: Path, history: str) -> None:
    stage = Stage(tmp_path)
    first, gates, others = HISTORIES[history]
    for number, gate in enumerate(gates):
        assert stage.play(first, gate, others, ENDS[number % len(ENDS)]), gate


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("history", HISTORIES)
def test_however_the_slow_one_ends(tmp_path: Path, history: str, end: End) -> None:
    stage = Stage(tmp_path)
    first, gates, others = HISTORIES[history]
    for gate in gates:
        assert stage.play(first, gate, others, end), gate


@pytest.mark.slow
@pytest.mark.parametrize("end", ["interrupted", "killed"])
@pytest.mark.parametrize("others", [("gc",), ("remove t", "gc"), ("roll back to 1", "publish 9")])
@pytest.mark.parametrize("first", [*FACTS, "remove t", "unpin"])
def test_overtaken_at_every_step(
    tmp_path: Path, first: str, others: Sequence[str], end: End
) -> None:
    stage, step = Stage(tmp_path), 1
    while stage.play(first, Gate(number=step), others, end):
        step += 1
    assert step > 1


# -- two are overtaken


@pytest.mark.parametrize(
    ("meanwhile", "order"), [("roll back to 1", "first"), ("alias 1", "second")]
)
def test_two_removals_do_not_end_each_other(tmp_path: Path, meanwhile: str, order: str) -> None:
    place = local_place(tmp_path)
    prepared(place)
    one, two = (Slow(place, "remove 1", Gate("replace", TASK)) for _ in range(2))
    try:
        assert one.arrives() and two.arrives()  # both have seen that nothing names version 1
        done = attempt(place.open(), meanwhile)
        assert done
        pair = (one, two) if order == "first" else (two, one)
        assert [process.ends() for process in pair] == ["LiveVersion"] * 2
    finally:
        one.stop()
        two.stop()
    require_sound(place, done)


def test_who_removes_what_another_removed_meanwhile_is_told(tmp_path: Path) -> None:
    place = local_place(tmp_path)
    store = prepared(place)
    process = Slow(place, "remove 1", Gate("replace", TASK))
    try:
        assert process.arrives()
        store.rm("t", 1)
        assert process.ends() == "UnknownVersion"
    finally:
        process.stop()
    require_sound(place, {"remove 1"})


def test_what_was_live_before_is_not_put_back(tmp_path: Path) -> None:
    place = local_place(tmp_path)
    store = prepared(place)
    process = Slow(place, "roll back to 1", Gate("replace", TASK))
    try:
        assert process.arrives()
        store.rm("t", 1)
        store.rollback("t", 3)
        store.rm("t", 2)  # what was live when the other began
        assert process.ends() == "UnknownVersion"
    finally:
        process.stop()
    require_sound(place, {"roll back to 3"})


@pytest.mark.parametrize(
    ("gate", "end"),
    [
        (Gate("remove"), "killed"),
        (Gate("remove", after=True), "killed"),  # before it forgets the signature
        (Gate("remove", after=True), "interrupted"),
        (Gate("replace", "gc", 4), "goes on"),  # before it says that it has ended
    ],
    ids=str,
)
def test_a_signature_of_what_a_gc_removed_stops_nobody(
    tmp_path: Path, gate: Gate, end: End
) -> None:
    place = local_place(tmp_path)
    store = prepared(place)
    ACTIONS["sign 1"](store)
    signed = store.resolve("t", 1).digest
    store.rm("t", 1)
    gc = Slow(place, "gc", gate)
    assert gc.arrives()
    again = Slow(place, "publish 1")  # needs what the gc is removing, and waits for it
    try:
        gc.ends(end)
        assert again.ends() == "done"
    finally:
        gc.stop()
        again.stop()
    require_sound(place, set())
    assert store.resolve("t").digest == signed
    ACTIONS["sign live"](store)
    verify(signed, store.signatures(signed), [PUBLIC_KEY])
    layout, other = tmp_path / "layout", ModelStore(tmp_path / "other", create=True)
    transfer(StorePlace(store), LayoutPlace(layout))
    transfer(LayoutPlace(layout), StorePlace(other))
    verify(signed, other.signatures(signed), [PUBLIC_KEY])


@pytest.mark.parametrize("who", ["gc", "publish 1", "publish 9"])
def test_a_copy_does_not_remove_what_a_gc_was_removing_when_it_was_begun(
    tmp_path: Path, who: str
) -> None:
    """File by file, as `cp` and `rsync` do: the file `gc` first, all else when it is put again."""
    place, copy = local_place(tmp_path), local_place(tmp_path / "copy")
    store = prepared(place)
    store.rm("t", 1)
    gc = Slow(place, "gc", Gate("remove"))
    try:
        assert gc.arrives()
        note = (Path(store.url) / "gc").read_bytes()
        assert gc.ends() == "done"
    finally:
        gc.stop()
    publish(store, "t", 1)
    shutil.copytree(store.url, copy.url)
    (Path(copy.url) / "gc").write_bytes(note)
    assert [problem for problem in verify_store(copy.open()) if problem.severity == "error"] == []
    ACTIONS[who](copy.open())
    require_sound(copy, set())
    assert seeds(copy.open())[4] == 1


# -- a component that is cut off


@pytest.mark.parametrize("operation", CUT)
def test_nothing_is_acknowledged_that_needs_a_file_cut_off(tmp_path: Path, operation: str) -> None:
    store = prepared(local_place(tmp_path))
    shutil.copytree(store.url, f"{store.url}-whole")
    ModelStore(f"{store.url}-whole").rollback("t", 3)
    component = store.resolve("t", 2).path.components["embedding"]
    store.rm("t")
    publish(store, "t", 1)
    file = blob_file(store, component)
    whole = file.read_bytes()
    os.truncate(file, len(whole) - 4)
    with pytest.raises(CorruptBlob, match=file.name):
        CUT[operation](ModelStore(store.url), component)
    file.unlink()
    file.write_bytes(whole)
    CUT[operation](ModelStore(store.url), component)
    require_sound(local_place(tmp_path), set())


def test_a_manifest_from_elsewhere_does_not_tell_the_size_of_what_is_here(tmp_path: Path) -> None:
    store = prepared(local_place(tmp_path))
    found = store.resolve("t", 3)
    manifest = bytes(store.read_blob(found.digest))
    for size in (b'"size":479', b'"size":481'):
        with pytest.raises(Malformed, match="480"):
            ModelStore(store.url).adopt(manifest.replace(b'"size":480', size, 1))
    require_sound(local_place(tmp_path), set())


# -- two exports


@pytest.mark.parametrize("end", ["goes on", "interrupted"])
def test_an_export_takes_nothing_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: End
) -> None:
    store, layout = prepared(local_place(tmp_path)), tmp_path / "layout"
    lacks, rename = LayoutPlace.lacks, os.replace

    def export() -> Report:
        return transfer(StorePlace(store), LayoutPlace(layout))

    def overtaken(place: LayoutPlace, blobs: Sequence[Descriptor]) -> list[Descriptor]:
        found = lacks(place, blobs)
        monkeypatch.setattr(LayoutPlace, "lacks", lacks)
        assert found and export().moved_blobs == len(found)
        if end == "interrupted":
            monkeypatch.setattr(os, "replace", interrupted)
        return found

    def interrupted(*_: object) -> None:
        monkeypatch.setattr(os, "replace", rename)
        raise KeyboardInterrupt

    monkeypatch.setattr(LayoutPlace, "lacks", overtaken)
    if end == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            export()
    else:
        export()
    target = ModelStore(tmp_path / "target", create=True)
    transfer(LayoutPlace(layout), StorePlace(target))
    assert target.resolve("t").digest == store.resolve("t").digest and verify_store(target) == []
    assert export().moved_blobs == 0
