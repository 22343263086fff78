"""Damage of every kind of file is found by verify, and by the reader who meets it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store import CorruptBlob, CorruptRef, DamagedStore, Digest, Malformed, ModelStore
from model_store.blobs import digest_of
from tests.model_store.samples import arrays, new_store, path, publish


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """A store of one task with two versions, and one agent."""
    made = new_store(tmp_path)
    for seed in (1, 2):
        publish(made, "a/t", seed)
    made.save_agent("agent", {"generation": 1}, [made.put(arrays(5))])
    assert made.verify() == []
    return made


def blob(store: ModelStore, digest: str) -> Path:
    """The file of a blob."""
    return Path(store.url) / "blobs/sha256" / digest[7:]


def manifest(store: ModelStore) -> Digest:
    """The manifest of the live version."""
    return store.resolve("a/t").digest


def layer(store: ModelStore, number: int) -> Digest:
    """A layer of the live version: the path spec, the embedding, the head."""
    return json.loads(blob(store, manifest(store)).read_bytes())["layers"][number]["digest"]


def config(store: ModelStore) -> Digest:
    """The config of the live version."""
    return json.loads(blob(store, manifest(store)).read_bytes())["config"]["digest"]


def agent_state(store: ModelStore) -> Digest:
    """The manifest of the agent's state."""
    return Digest((Path(store.url) / "refs/agents/agent/state").read_text().strip())


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
    file = blob(store, digest)
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    found = [problem for problem in store.verify() if problem.path == str(file)]
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
    file = blob(store, digest)
    file.write_bytes(file.read_bytes()[:size].ljust(size))
    assert any(p.severity == "error" and p.digest == digest for p in store.verify())
    if kind in READERS:
        # where the size is known, it is compared before anything is hashed
        message = "bytes, expected" if kind == "path spec" else file.name
        with pytest.raises(DamagedStore, match=message):
            READERS[kind](store)


@pytest.mark.parametrize("kind", BLOBS)
def test_a_missing_blob(store: ModelStore, kind: str) -> None:
    digest = BLOBS[kind](store)
    blob(store, digest).unlink()
    problems = store.verify()
    assert problems and all(p.severity == "error" for p in problems)
    assert any(digest in p.message and p.path for p in problems)
    if kind in READERS:
        with pytest.raises(DamagedStore, match=digest):
            READERS[kind](store)


@pytest.mark.parametrize("content", ["", "v9\n", "v2", "v2\n\n", "v02\n", "3\n", "\0", "v2 \n"])
def test_a_damaged_live_ref(store: ModelStore, content: str) -> None:
    file = Path(store.url) / "refs/tasks/a%2Ft/live"
    file.write_text(content)
    publish(store, "other", 1)
    with pytest.raises(CorruptRef, match="live"):
        store.resolve("a/t")
    (problem,) = store.verify()
    assert (problem.severity, problem.path) == ("error", str(file))
    assert ModelStore(store.url).tasks() == ["other"]  # the damage hides no other task
    store.rollback("a/t", 1)
    assert store.resolve("a/t").version == 1 and store.verify() == []


@pytest.mark.parametrize("content", ["", "sha256:0\n", "v2\n", "sha256:" + "0" * 64])
def test_a_damaged_version_ref(store: ModelStore, content: str) -> None:
    file = Path(store.url) / "refs/tasks/a%2Ft/v2"
    file.write_text(content)
    with pytest.raises(CorruptRef, match="v2"):
        store.resolve("a/t")
    assert [problem.path for problem in store.verify()] == [str(file)]
    store.rollback("a/t", 1)
    assert store.resolve("a/t").version == 1


def test_a_damaged_agent_ref(store: ModelStore) -> None:
    file = Path(store.url) / "refs/agents/agent/state"
    file.write_text("nothing\n")
    with pytest.raises(CorruptRef, match="state"):
        store.load_agent("agent")
    assert [problem.path for problem in store.verify()] == [str(file)]


def test_a_directory_in_the_place_of_a_ref(store: ModelStore) -> None:
    file = Path(store.url) / "refs/tasks/a%2Ft/v2"
    file.unlink()
    file.mkdir()
    with pytest.raises(CorruptRef, match="directory"):
        store.resolve("a/t")
    assert str(file) in {problem.path for problem in store.verify() if problem.severity == "error"}


def test_a_damaged_live_version_does_not_stop_its_replacement(store: ModelStore) -> None:
    blob(store, manifest(store)).write_bytes(b"{}")
    assert publish(store, "a/t", 3) == 3
    assert store.resolve("a/t").version == 3


def test_putting_over_a_truncated_blob_is_refused(store: ModelStore) -> None:
    file = blob(store, layer(store, 2))
    file.write_bytes(b"")
    with pytest.raises(CorruptBlob, match=file.name):
        store.put(arrays(2))
    file.unlink()
    store.put(arrays(2))
    assert store.verify() == []


def put_raw(store: ModelStore, data: bytes) -> Digest:
    """Store bytes as a blob without asking the package."""
    digest = digest_of(data)
    blob(store, digest).write_bytes(data)
    return digest


def point_to(store: ModelStore, data: bytes) -> Digest:
    """Let version 2 be a manifest of these bytes."""
    digest = put_raw(store, data)
    (Path(store.url) / "refs/tasks/a%2Ft/v2").write_text(f"{digest}\n")
    return digest


def test_honest_digests_of_things_that_are_no_manifests(store: ModelStore) -> None:
    good = json.loads(blob(store, manifest(store)).read_bytes())
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
    for document in documents:
        digest = point_to(store, json.dumps(document).encode())
        with pytest.raises(Malformed, match=digest):
            store.resolve("a/t")
        problems = [p for p in store.verify() if p.digest == digest]
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
    assert store.verify() == []  # a blob may be anything until something uses it as a component
    with pytest.raises(Malformed, match=digest):
        store.component(digest)
    store.publish(path("bad", {"head": digest}))
    (problem,) = store.verify()
    assert problem.digest == digest and str(blob(store, digest)) in problem.message


def test_unknown_files_are_warnings(store: ModelStore) -> None:
    unknown = [
        "oci-layout",
        "blobs/md5",
        "blobs/sha256/README",
        "refs/tasks/a%2Ft/Notes",
        "refs/tasks/a%2Ft/v01",
        "refs/tasks/..%2F..",
        "refs/tasks/plain",
        "refs/agents/agent/v1",
        "tmp/x",
    ]
    for name in unknown:
        (Path(store.url) / name).write_text("?")
    problems = store.verify()
    assert {p.severity for p in problems} == {"warning"}
    assert sorted(p.path for p in problems) == sorted(
        str(Path(store.url) / name) for name in unknown
    )
    assert store.tasks() == ["a/t"]
    assert store.gc(grace_s=0).removed == ()
    assert store.history("a/t")[0].version == 1
