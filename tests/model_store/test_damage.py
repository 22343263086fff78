"""Damage of every kind of file is found by verify, and by the reader who meets it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_store import (
    CorruptBlob,
    CorruptRef,
    DamagedStore,
    Digest,
    Malformed,
    ModelStore,
)
from model_store.blobs import digest_of
from model_store.refs import Refs
from model_store.upkeep import collect_garbage, verify_store
from model_store.upkeep.repair import repair
from tests.model_store.samples import (
    arrays,
    blob_file,
    document,
    manifest,
    path,
    publish,
    small_store,
    write_value,
)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return small_store(tmp_path)


def layer(store: ModelStore, number: int) -> Digest:
    """A layer of the live version: the path spec, the embedding, the head."""
    return json.loads(blob_file(store, manifest(store)).read_bytes())["layers"][number]["digest"]


def config(store: ModelStore) -> Digest:
    """The config of the live version."""
    return json.loads(blob_file(store, manifest(store)).read_bytes())["config"]["digest"]


def agent_state(store: ModelStore) -> Digest:
    """The manifest of the agent's state."""
    state = store.agent_state("agent")
    assert state
    return state[0]


BLOBS: dict[str, Callable[[ModelStore], Digest]] = {
    "manifest": manifest,
    "path spec": lambda store: layer(store, 0),
    "component": lambda store: layer(store, 2),
    "config": config,
    "agent": agent_state,
}
READERS: dict[str, Callable[[ModelStore], object]] = {
    "manifest": lambda store: store.resolve("a/t"),
    "path spec": lambda store: store.resolve("a/t"),
    "component": lambda store: store.component(store.resolve("a/t").path.components["head"]),
    "agent": lambda store: store.load_agent("agent"),
}


@pytest.mark.parametrize("kind", BLOBS)
@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_flipped_byte(store: ModelStore, kind: str, position: int) -> None:
    digest = BLOBS[kind](store)
    file = blob_file(store, digest)
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    found = [problem for problem in verify_store(store) if problem.path == str(file)]
    assert len(found) == 1 and found[0].severity == "error" and found[0].digest == digest
    assert digest in found[0].message and str(file) in found[0].message
    if kind in READERS:
        with pytest.raises(CorruptBlob) as caught:
            READERS[kind](store)
        assert digest in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize("kind", BLOBS)
@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_a_blob_of_another_size(store: ModelStore, kind: str, size: int) -> None:
    digest = BLOBS[kind](store)
    file = blob_file(store, digest)
    file.write_bytes(file.read_bytes()[:size].ljust(size))
    assert any(p.severity == "error" and p.digest == digest for p in verify_store(store))
    if kind in READERS:
        # where the size is known, it is compared before anything is hashed
        message = "bytes, expected" if kind == "path spec" else file.name
        with pytest.raises(DamagedStore, match=message):
            READERS[kind](store)


@pytest.mark.parametrize("kind", BLOBS)
def test_a_missing_blob(store: ModelStore, kind: str) -> None:
    digest = BLOBS[kind](store)
    blob_file(store, digest).unlink()
    problems = verify_store(store)
    assert problems and all(p.severity == "error" for p in problems)
    assert any(digest in p.message and p.path for p in problems)
    if kind in READERS:
        with pytest.raises(DamagedStore, match=digest):
            READERS[kind](store)


def bad_values(store: ModelStore) -> list[Any]:
    """What the document of a task must not say."""
    digest, time = manifest(store), "2026-01-01T00:00:00Z"
    good = {"aliases": {}, "chosen": 0, "live": 1, "next": 2, "versions": {"1": [digest, time]}}
    return [
        5, "v1", [], {},
        {**good, "live": 2}, {**good, "live": "1"}, {**good, "live": True}, {**good, "next": 1},
        {**good, "next": 0}, {**good, "next": 2.5}, {**good, "next": 10**12},
        {**good, "aliases": {"stable": 2}}, {**good, "aliases": {"v1": 1}}, {**good, "aliases": 1},
        {**good, "versions": {"01x": [digest, time]}}, {**good, "versions": {"1": [digest]}},
        {**good, "versions": {"1": ["sha256:0", time]}},
        {**good, "versions": {"0": [digest, time]}},
        {**good, "chosen": None}, {**good, "versions": []},
    ]  # fmt: skip


def test_a_document_that_contradicts_itself(store: ModelStore) -> None:
    publish(store, "other", 1)
    for value in bad_values(store):
        write_value(store, "refs/tasks/a%2Ft", value)
        with pytest.raises(CorruptRef, match="a%2Ft"):
            store.resolve("a/t")
        assert str(document(store, "a/t")) in {problem.path for problem in verify_store(store)}
        assert ModelStore(store.url).tasks() == ["other"]  # the damage hides no other task
        with pytest.raises(CorruptRef):  # gc cannot tell what it needs, and removes nothing
            collect_garbage(store, grace_s=0)
        with pytest.raises(CorruptRef):  # nothing is written over what cannot be read
            publish(store, "a/t", 3)


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"\0", b"[" * 100_000, b"v2\n"])
@pytest.mark.parametrize("key", ["refs/tasks/a%2Ft", "refs/agents/agent"])
def test_a_damaged_document(store: ModelStore, key: str, content: bytes) -> None:
    file = Path(store.url) / key
    file.write_bytes(content)
    with pytest.raises(CorruptRef, match=file.name):
        store.load_agent("agent") if "agents" in key else store.resolve("a/t")
    assert str(file) in {
        problem.path for problem in verify_store(store) if problem.severity == "error"
    }


def test_a_document_moved_to_another_task_is_refused(store: ModelStore) -> None:
    publish(store, "other", 1)
    document(store, "a/t").rename(document(store, "other"))
    with pytest.raises(CorruptRef, match="other"):
        store.resolve("other")


def test_a_directory_in_the_place_of_a_document(store: ModelStore) -> None:
    file = document(store, "a/t")
    file.unlink()
    file.mkdir()
    with pytest.raises(CorruptRef, match="directory"):
        store.resolve("a/t")
    assert str(file) in {
        problem.path for problem in verify_store(store) if problem.severity == "error"
    }


def test_a_damaged_live_version_does_not_stop_its_replacement(store: ModelStore) -> None:
    blob_file(store, manifest(store)).write_bytes(b"{}")
    assert publish(store, "a/t", 3) == 3
    assert store.resolve("a/t").version == 3


def test_putting_over_a_truncated_blob_is_refused(store: ModelStore) -> None:
    file = blob_file(store, layer(store, 2))
    file.write_bytes(b"")
    with pytest.raises(CorruptBlob, match=file.name):
        store.put(arrays(2))
    file.unlink()
    store.put(arrays(2))
    assert verify_store(store) == []


def put_raw(store: ModelStore, data: bytes) -> Digest:
    """Store bytes as a blob without asking the package."""
    digest = digest_of(data)
    blob_file(store, digest).write_bytes(data)
    return digest


def point_to(store: ModelStore, data: bytes) -> Digest:
    """Let version 2 be a manifest of these bytes."""
    digest = put_raw(store, data)
    versions = {"2": [digest, "2026-01-01T00:00:00Z"]}
    value = {"aliases": {}, "chosen": 3, "live": 2, "next": 3, "versions": versions}
    write_value(store, "refs/tasks/a%2Ft", value)
    return digest


def test_honest_digests_of_things_that_are_no_manifests(store: ModelStore) -> None:
    good = json.loads(blob_file(store, manifest(store)).read_bytes())
    other = path("x", dict(store.resolve("a/t").path.components))
    other_spec = put_raw(store, other.to_bytes())
    spec_layer = {**good["layers"][0], "digest": other_spec, "size": len(other.to_bytes())}
    documents = [
        [],
        {},
        {**good, "schemaVersion": 1},
        {**good, "mediaType": "x"},
        {**good, "artifactType": "application/vnd.munet.agent.v1+json"},
        {**good, "layers": {}},
        {**good, "layers": good["layers"][1:]},
        {**good, "layers": good["layers"] + good["layers"][:1]},
        {**good, "layers": good["layers"][:-1]},
        {**good, "layers": [good["layers"][0], *good["layers"][:0:-1]]},
        {**good, "layers": [spec_layer, *good["layers"][1:]]},
        {**good, "layers": [{**good["layers"][0], "size": -1}, *good["layers"][1:]]},
        {**good, "layers": [{**good["layers"][0], "digest": "../../etc"}, *good["layers"][1:]]},
        {**good, "config": None},
        {**good, "annotations": {"org.opencontainers.image.title": 5}},
    ]
    for content in documents:
        digest = point_to(store, json.dumps(content).encode())
        with pytest.raises(Malformed, match=digest):
            store.resolve("a/t")
        problems = [p for p in verify_store(store) if p.digest == digest]
        assert problems and problems[0].severity == "error"
    point_to(store, b"[" * 100_000)
    with pytest.raises(Malformed):
        store.resolve("a/t")
    point_to(store, b" " * (4 * 2**20 + 1))
    with pytest.raises(Malformed, match="limit"):
        store.resolve("a/t")


def test_an_honest_digest_of_a_component_that_is_none(store: ModelStore) -> None:
    data = b"not a component"
    digest = put_raw(store, data)
    assert (
        verify_store(store) == []
    )  # a blob may be anything until something uses it as a component
    with pytest.raises(Malformed, match=digest):
        store.component(digest)
    store.publish(path("bad", {"head": digest}))
    (problem,) = verify_store(store)
    assert problem.digest == digest and str(blob_file(store, digest)) in problem.message


def test_unknown_files_are_warnings(store: ModelStore) -> None:
    unknown = [
        "oci-layout",
        "blobs/md5",
        "blobs/sha256/README",
        "refs/tasks/..%2F..",
        "refs/notes",
        "tmp/x",
    ]
    for name in unknown:
        (Path(store.url) / name).write_text("?")
    problems = verify_store(store)
    assert {p.severity for p in problems} == {"warning"}
    assert sorted(p.path for p in problems) == sorted(
        str(Path(store.url) / name) for name in unknown
    )
    assert store.tasks() == ["a/t"]
    assert collect_garbage(store, grace_s=0).removed == ()
    assert store.history("a/t")[0].version == 1


def test_nothing_is_removed_or_published_beside_a_document_that_was_put_back(
    store: ModelStore,
) -> None:
    file = document(store, "a/t")
    before = file.read_bytes()
    version = publish(store, "a/t", 77)
    now = file.read_bytes()
    file.write_bytes(before)
    with pytest.raises(CorruptRef, match="verify --repair"):
        collect_garbage(store, grace_s=0)
    with pytest.raises(CorruptRef, match="verify --repair"):
        publish(store, "a/t", 78)  # its number would be one that was given already
    assert file.read_bytes() == before
    file.write_bytes(now)
    assert store.resolve("a/t").version == version and verify_store(store) == []


def test_after_a_gc_no_copy_names_what_it_removed(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = publish(store, "a/t", 77)
    publish(store, "a/t", 78)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Refs, "_keep", killed)
        with pytest.raises(KeyboardInterrupt):
            store.rm("a/t", removed)
    assert collect_garbage(store, grace_s=0).removed
    document(store, "a/t").unlink()
    repair(store.url)
    assert removed not in store.versions("a/t") and verify_store(store) == []
