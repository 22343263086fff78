"""Parts of agents' states: kept with all that they refer to, and cheap to share."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from model_store import AgentMoved, Digest, MissingComponent, ModelStore
from model_store.files.gc_handshake import Handshake
from model_store.files.local import LocalStorage
from model_store.files.protocol import Read
from model_store.manifest import IMAGE_MANIFEST, Descriptor
from model_store.names import INDEX, agent_key
from model_store.reading import load_manifest
from model_store.upkeep import collect_garbage, verify_store
from model_store.upkeep.backup import backup
from tests.model_store.samples import arrays, new_store, publish

NOWHERE = Digest("sha256:" + "0" * 64)


def part_of(store: ModelStore, seed: int) -> tuple[Digest, Digest]:
    """A part, and the component that it refers to."""
    component = store.put(arrays(seed))
    return store.put_part({"seed": seed, "head": component}, [component]), component


def test_a_part_is_kept_with_its_components_while_a_state_has_it(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    part, component = part_of(store, 1)
    first = store.save_agent("a", {"part": part}, [], parts=[part])
    store.save_agent("b", {"part": part}, [], parts=[part])
    store.save_agent("a", {}, [], replacing=first)
    assert part not in collect_garbage(store, grace_s=0).removed
    again = ModelStore(store.url)
    assert again.part(part) == {"seed": 1, "head": component}
    assert again.component(component) and verify_store(again) == []
    store.save_agent("b", {}, [])
    assert {part, component} <= {*collect_garbage(store, grace_s=0).removed}


def test_a_part_that_is_not_there_or_not_whole_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    part, component = part_of(store, 1)
    with pytest.raises(MissingComponent, match="part of a state"):
        store.put_part({}, [NOWHERE])
    (Path(store.url) / "blobs/sha256" / component[7:]).unlink()
    for missing in (NOWHERE, part):
        with pytest.raises(MissingComponent, match="agent a"):
            store.save_agent("a", {}, [], parts=[missing])
    assert store.agents() == []


def test_a_pinned_state_is_pinned_with_what_its_parts_need(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    part, component = part_of(store, 1)
    state = store.save_agent("a", {"part": part}, [], parts=[part])
    store.pin("kept", state)
    store.save_agent("a", {}, [])
    assert not {part, component} & {*collect_garbage(store, grace_s=0).removed}
    (Path(store.url) / "blobs/sha256" / component[7:]).unlink()
    with pytest.raises(MissingComponent, match=component):
        store.pin("broken", state)


def test_only_an_agents_state_has_parts(tmp_path: Path) -> None:
    """A layer of another manifest says nothing of manifests: it can be anything."""
    store = new_store(tmp_path)
    publish(store, "t", 1)
    manifest = load_manifest(store.blobs, store.resolve("t").digest)
    layer = Descriptor(IMAGE_MANIFEST, store.put_blob(b"no manifest"), 11)
    other = replace(manifest, layers=(*manifest.layers, layer))
    store.adopt(other.to_bytes())
    collect_garbage(store, grace_s=0)
    assert store.lacks([layer.digest]) == [] and verify_store(store) == []


def test_what_is_missing_of_a_part_is_found(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    part, component = part_of(store, 1)
    for agent in ("a", "b"):
        store.save_agent(agent, {"part": part}, [], parts=[part])
    (Path(store.url) / "blobs/sha256" / component[7:]).unlink()
    (problem,) = verify_store(ModelStore(store.url))
    assert problem.digest == component


def test_a_backup_has_the_parts(tmp_path: Path) -> None:
    store = new_store(tmp_path / "source")
    part, component = part_of(store, 1)
    for agent in ("a", "b"):
        store.save_agent(agent, {"part": part}, [], parts=[part])
    backup(store.url, f"{tmp_path}/copy")
    copy = ModelStore(tmp_path / "copy")
    assert copy.component(copy.part(part)["head"]) and verify_store(copy) == []
    (Path(store.url) / "blobs/sha256" / component[7:]).unlink()
    report = backup(store.url, f"{tmp_path}/other")
    assert len(report.problems) == 2


def test_a_shared_part_is_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the agent's own state has, or the index, needs no look; what is new does."""
    store = new_store(tmp_path)
    parts = [part_of(store, seed)[0] for seed in range(20)]
    index = store.save_agent(INDEX, {"parts": parts}, [], parts=parts)
    looked: list[str] = []
    touch = store.storage.touch

    def counting(keys: list[str]) -> None:
        wanted = list(keys)
        looked.extend(wanted)
        touch(wanted)

    monkeypatch.setattr(store.storage, "touch", counting)

    def cost(agent: str, n: int, having: list[Digest]) -> int:
        looked.clear()
        store.save_agent(agent, {"n": n}, [], parts=having)
        return len({*looked})

    small = cost("plain", 1, [])  # the state's own blobs
    assert cost("a", 1, parts) == small
    new, _ = part_of(store, 20)
    assert cost("a", 2, [*parts[1:], new]) == small + 3  # a part's document and component too
    # The index may have moved on: then only what it lacks is looked at.
    store.save_agent(INDEX, {"parts": 19}, [], parts=[*parts[1:], new], replacing=index)
    assert cost("b", 1, parts) == small + 3
    store.remove_agent(INDEX)
    assert cost("b", 2, parts) == small  # its own state has them
    assert cost("c", 1, parts) == small + 20 * 3  # those of another agent's state are not enough
    assert verify_store(store) == []


def test_of_two_that_change_the_parts_at_once_none_is_lost(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    first, second = part_of(store, 1)[0], part_of(store, 2)[0]
    store.save_agent(INDEX, {"parts": [first]}, [], parts=[first], replacing=None)
    with pytest.raises(AgentMoved):
        store.save_agent(INDEX, {"parts": [second]}, [], parts=[second], replacing=None)


def test_a_part_that_moves_while_a_gc_looks_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From nowhere to the index and on to a state, each time behind the gc's back.

    The gc sees no touch either: the clock was set back meanwhile.
    """
    store = new_store(tmp_path)
    part, component = part_of(store, 1)
    store.save_agent("a", {}, [])
    store.save_agent(INDEX, {}, [])
    propose, read_many = Handshake.propose, LocalStorage.read_many
    looks: list[str] = []

    def proposing(self: Handshake, keys: Iterable[str]) -> None:
        store.save_agent(INDEX, {"n": 1}, [], parts=[part])
        propose(self, keys)
        looks.append("second")

    def reading(self: LocalStorage, keys: Iterable[str]) -> dict[str, Read]:
        wanted = list(keys)
        if not looks or agent_key(INDEX) not in wanted:
            return read_many(self, wanted)
        looks.clear()
        found = read_many(self, [key for key in wanted if key != agent_key(INDEX)])
        store.save_agent("a", {"n": 1}, [], parts=[part])
        store.save_agent(INDEX, {"n": 2}, [])
        return {**found, **read_many(self, [agent_key(INDEX)])}

    monkeypatch.setattr(Handshake, "propose", proposing)
    monkeypatch.setattr(LocalStorage, "read_many", reading)
    monkeypatch.setattr(LocalStorage, "touch", lambda self, keys: None)
    collect_garbage(store, grace_s=0)
    assert looks == [] and store.load_agent("a") == {"n": 1}
    assert verify_store(ModelStore(store.url)) == []
    assert store.lacks([part, component]) == []
