"""verify finds the loss or change of any file, and alarms about nothing that is under way."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store import ModelStore
from model_store.errors import StoreError
from model_store.upkeep import collect_garbage, verify_store
from model_store.upkeep.verification import Problem
from tests.model_store.overtaken import Overtaken
from tests.model_store.samples import arrays, new_store, publish
from tests.model_store.sweeps import (
    Damage,
    contents,
    copied,
    damages,
    facts,
    sample_store,
    sign_live,
)


def errors(folder: Path) -> list[Problem]:
    """Of a store, also where it cannot even be opened."""
    try:
        return [p for p in verify_store(ModelStore(folder)) if p.severity == "error"]
    except StoreError as error:
        return [Problem("error", "", None, str(error))]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Damage]]:
    """The store, and all damages."""
    folder = tmp_path_factory.mktemp("sweep") / "store"
    earlier = sample_store(folder)
    return folder, list(damages(contents(folder), earlier))


def test_every_damage_of_every_single_file_is_found_and_named(
    original: tuple[Path, list[Damage]], tmp_path: Path
) -> None:
    folder, all_damages = original
    root = copied(folder, tmp_path / "store")
    assert len(all_damages) > 100
    assert {d.kind for d in all_damages if d.name.startswith("refs/")} == {
        "missing", "cut short", "flipped", "empty", "longer", "put back", "alias changed"
    }  # fmt: skip
    for damage in all_damages:
        whole = (root / damage.name).read_bytes()
        damage.do(root)
        found = errors(root)
        if damage.harmless:
            assert found == [], str(damage)
            assert facts(ModelStore(root)) == facts(ModelStore(folder))
        else:
            assert any(damage.name in problem.message for problem in found), (str(damage), found)
        (root / damage.name).write_bytes(whole)
    assert errors(root) == []


def _again(store: ModelStore) -> None:
    components = dict(store.resolve("b", 1).path.components)
    store.rm("b", 1)
    collect_garbage(store, grace_s=0)
    publish(store, "b", 3)
    assert dict(store.resolve("b").path.components) == components


def _then_gc(change: Callable[[ModelStore], object]) -> Callable[[ModelStore], object]:
    def both(store: ModelStore) -> None:
        change(store)
        collect_garbage(store, grace_s=0)

    return both


MEANWHILE: dict[str, Callable[[ModelStore], object]] = {
    "a version is removed": _then_gc(lambda store: store.rm("b", 1)),
    "a task is removed": _then_gc(lambda store: store.rm("b")),
    "a version is removed and published again": _again,
    "a version is added": lambda store: publish(store, "a/t", 9),
    "a pin is taken away": _then_gc(lambda store: store.unpin("keep")),
    "a state is replaced": _then_gc(lambda store: store.save_agent("agent", {"n": 3}, [])),
    "a signature is added": lambda store: sign_live(store, "a/t"),
    "garbage is removed": _then_gc(lambda store: store.put(arrays(90))),
}


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_no_alarm_about_what_others_do_meanwhile(
    original: tuple[Path, list[Damage]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: str,
    every: int,
) -> None:
    """At each call of the storage in turn, another process does something."""
    calls = Overtaken(monkeypatch)
    calls.count(lambda: verify_store(ModelStore(original[0])))
    assert calls.made > 70
    for number in range(1, calls.made, every):
        root = copied(original[0], tmp_path / "store")
        store = ModelStore(root)
        publish(store, "b", 6)
        calls.overtake(number, lambda root=root: MEANWHILE[meanwhile](ModelStore(root)))
        assert verify_store(store) == [], number
        assert calls.overtaken
        assert verify_store(ModelStore(root)) == []


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
@pytest.mark.parametrize("name", ["gc", "refs/changes", "lock", "lock.gc"])
def test_what_no_writer_gets_past_is_named(tmp_path: Path, name: str, kind: str) -> None:
    """A store to which nothing can be published, or in which no gc can run, is not sound."""
    store = new_store(tmp_path)
    publish(store, "t", 1)
    place = Path(store.url) / name
    place.unlink()
    assert verify_store(store) == []  # it is made again
    if kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to("elsewhere")
    else:
        os.mkfifo(place)
    (problem,) = verify_store(store)
    assert (problem.severity, problem.path) == ("error", str(place))
    assert store.resolve("t").version == 1
    place.rmdir() if kind == "folder" else place.unlink()
    assert publish(store, "t", 2) == 2 and verify_store(store) == []
