"""Parts of agents' states: kept with all that they refer to, and cheap to share."""

from pathlib import Path

import pytest

from model_store import AgentMoved, Digest, MissingComponent, ModelStore
from model_store.names import INDEX
from model_store.upkeep import collect_garbage, verify_store
from model_store.upkeep.backup import backup
from tests.model_store.samples import arrays, new_store

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
