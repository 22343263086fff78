"""Publishing, resolving, rolling back and removing, as a user of one store sees it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store import (
    BlobNotFound,
    Digest,
    InvalidName,
    LiveVersion,
    Malformed,
    MissingComponent,
    ModelStore,
    StoreNotFound,
    TaskPath,
    UnknownTask,
    UnknownVersion,
    Unstorable,
)
from model_store.errors import Unsure
from model_store.files.local import LocalStorage
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.samples import arrays, files, new_store, path, publish

NOWHERE = Digest("sha256:" + "0" * 64)


def test_opening_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="munet-store"):
        ModelStore(tmp_path / "store")
    assert not (tmp_path / "store").exists()
    ModelStore(tmp_path / "store", create=True)
    assert ModelStore(tmp_path / "store").tasks() == []


def test_components_are_stored_once(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    digest = store.put(arrays(1))
    before = {file: file.stat().st_ino for file in files(store)}
    assert store.put(dict(reversed(arrays(1).items()))) == digest
    assert {file: file.stat().st_ino for file in files(store)} == before
    assert store.size(digest) == (Path(store.url) / "blobs/sha256" / digest[7:]).stat().st_size
    found = store.component(digest)
    assert isinstance(found, dict)
    np.testing.assert_array_equal(found["kernel"], arrays(1)["kernel"])
    with pytest.raises(ValueError, match="read-only"):
        found["kernel"][0] = 1


def test_a_component_outlives_its_file(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    found = store.component(store.put(arrays(1)))
    collect_garbage(store, grace_s=0)
    assert isinstance(found, dict)
    np.testing.assert_array_equal(found["kernel"], arrays(1)["kernel"])


def test_publish_and_resolve(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    components = {"head": store.put(arrays(1)), "cls": store.put(np.zeros((1, 1, 4), np.float32))}
    wanted = path("cmaterdb/bangla", components, private=True, extra={"later": [1, {"x": 2}]})
    published = store.publish(wanted)
    assert (published.task, published.version, published.path) == ("cmaterdb/bangla", 1, wanted)
    assert list(published.path.components) == ["head", "cls"]
    assert published.sizes == {name: store.size(digest) for name, digest in components.items()}
    assert published.created.endswith("Z")
    again = ModelStore(store.url)
    assert again.resolve("cmaterdb/bangla") == published
    assert again.resolve("cmaterdb/bangla", 1) == published
    assert again.tasks() == ["cmaterdb/bangla"]
    assert again.live() == {"cmaterdb/bangla": (1, published.digest)}
    assert verify_store(again) == []


def test_the_manifest_is_an_oci_manifest_and_a_model_pack(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "a/b", 1)
    published = store.resolve("a/b")
    blobs = Path(store.url) / "blobs/sha256"
    manifest = json.loads((blobs / published.digest[7:]).read_bytes())
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_bytes())
    assert set(config) == {"descriptor", "config", "modelfs"}
    diff_ids = [layer["digest"] for layer in manifest["layers"]]
    assert config["modelfs"] == {"type": "layers", "diffIds": diff_ids}
    titles = ["path.json", "embedding.safetensors", "head.safetensors"]
    for key in ("org.cncf.model.filepath", "org.opencontainers.image.title"):
        assert [layer["annotations"][key] for layer in manifest["layers"]] == titles
    for descriptor in [manifest["config"], *manifest["layers"]]:
        assert (blobs / descriptor["digest"][7:]).stat().st_size == descriptor["size"]


def test_publishing_what_is_live_adds_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    assert publish(store, "t", 1) == 1
    before = files(store)
    assert publish(store, "t", 1) == 1
    assert files(store) == before
    assert publish(store, "t", 2) == 2
    assert publish(store, "t", 1) == 3  # not live any more, hence a new version
    assert [item.version for item in store.history("t")] == [1, 2, 3]


def test_order_of_components_is_part_of_the_path(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    a, b = store.put(arrays(1)), store.put(arrays(2))
    store.publish(path("t", {"a": a, "b": b}))
    assert store.publish(path("t", {"b": b, "a": a})).version == 2
    assert list(store.resolve("t").path.components) == ["b", "a"]


def test_publishing_without_serving(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    path_ = path("t", {"head": store.put(arrays(1))})
    assert store.publish(path_, live=False).version == 1
    assert store.tasks() == []
    with pytest.raises(UnknownTask, match=r"no live version.*v1"):
        store.resolve("t")
    assert store.resolve("t", 1).path == path_
    assert store.rollback("t", 1).version == 1
    assert store.resolve("t").version == 1


def test_rollback(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for seed in (1, 2, 3):
        publish(store, "t", seed)
    first = store.resolve("t", 1)
    assert store.rollback("t", 1) == first == store.resolve("t")
    assert store.live() == {"t": (1, first.digest)}
    assert publish(store, "t", 4) == 4
    with pytest.raises(UnknownVersion, match="no version 9; it has v1, v2, v3, v4"):
        store.rollback("t", 9)


def test_removing(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for seed in (1, 2, 3):
        publish(store, "a/t", seed)
    publish(store, "other", 1)
    with pytest.raises(LiveVersion, match="version 3 of a/t is live"):
        store.rm("a/t", 3)
    store.rm("a/t", 1)
    assert [item.version for item in store.history("a/t")] == [2, 3]
    with pytest.raises(UnknownVersion):
        store.rm("a/t", 1)
    store.rm("a/t")
    assert store.tasks() == ["other"] == list(store.live())
    for call in (store.resolve, store.history, store.rm):
        with pytest.raises(UnknownTask):
            call("a/t")
    assert verify_store(store) == []


def test_unknown_tasks_get_a_hint(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "cmaterdb/bangla", 1)
    with pytest.raises(UnknownTask, match="did you mean cmaterdb/bangla"):
        store.resolve("cmaterdb/bengali")
    with pytest.raises(UnknownTask, match="its tasks: 1"):
        store.resolve("x")


def test_missing_components_are_listed_and_nothing_is_published(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    before = files(store)
    with pytest.raises(MissingComponent, match=r"task t: .*: b, head; put them"):
        store.publish(path("t", {"head": NOWHERE, "b": NOWHERE}))
    assert files(store) == before
    with pytest.raises(BlobNotFound, match=NOWHERE):
        store.component(NOWHERE)
    with pytest.raises(BlobNotFound, match=NOWHERE):
        store.size(NOWHERE)


BAD_NAMES = ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a b", "a%2Fb", "ä", "~x", "a\n"]


@pytest.mark.parametrize("name", [*BAD_NAMES, "x" * 201, "/".join("a" * 100)])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    store = new_store(tmp_path)
    digest = store.put(arrays(1))
    calls = [
        lambda: path(name, {"head": digest}),
        lambda: path("t", {name: digest}),
        lambda: store.resolve(name),
        lambda: store.rm(name),
        lambda: store.rollback(name, 1),
        lambda: store.history(name),
        lambda: store.save_agent(name, {}, []),
        lambda: store.load_agent(name),
    ]
    for call in calls:
        with pytest.raises(InvalidName):
            call()


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "0" * 32, "../x"])
def test_bad_digests_are_refused(tmp_path: Path, digest: str) -> None:
    store = new_store(tmp_path)
    for call in (store.component, store.size, lambda text: path("t", {"head": text})):
        with pytest.raises(InvalidName, match="64 lower case hex"):
            call(digest)


def test_awkward_but_allowed_names(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    names = [".hidden", "live", "v1", "a/live", "a", "A", "...", "-", "x" * 200, "/".join("a" * 50)]
    for seed, name in enumerate(names):
        publish(store, name, seed)
    assert store.tasks() == sorted(names)
    for name in names:
        assert store.resolve(name).task == name
    assert verify_store(store) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": {}}, "no components"),
        ({"labels": ["a"]}, "labels is list"),
        ({"labels": ("a", 1)}, "labels must be strings"),
        ({"private": "no"}, "private is str"),
        ({"metrics": 3}, "metrics is int"),
        ({"extra": {"task": "x"}}, r"extra repeats the fields \['task'\]"),
    ],
)
def test_bad_paths_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unstorable, match=message):
        dataclasses.replace(path("t", {"head": NOWHERE}), **changes)


def test_metrics_that_json_cannot_hold_are_refused_by_name(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    bad = path("t", {"head": store.put(arrays(1))}, metrics={"validation": {"loss": float("nan")}})
    with pytest.raises(Unstorable, match=r"path spec of t\.metrics\.validation\.loss is nan"):
        store.publish(bad)


def test_unknown_fields_survive_a_round_trip() -> None:
    document = {**path("t", {"head": NOWHERE}).to_json(), "future": {"a": [1]}}
    found = TaskPath.from_json(document)
    assert found.extra == {"future": {"a": [1]}}
    assert found.to_json() == document


SPEC = path("t", {"head": NOWHERE}).to_json()


@pytest.mark.parametrize(
    "document",
    [
        [],
        {name: value for name, value in SPEC.items() if name != "lineage"},
        {**SPEC, "components": {"head": NOWHERE}},
        {**SPEC, "components": [{"name": "head"}]},
        {**SPEC, "components": [{"name": "head", "digest": NOWHERE}] * 2},
        {**SPEC, "components": [{"name": "../x", "digest": NOWHERE}]},
        {**SPEC, "components": ["head"]},
        {**SPEC, "labels": "ab"},
        {**SPEC, "labels": [1]},
        {**SPEC, "private": 0},
        {**SPEC, "subpaths": [1]},
        {**SPEC, "task": None},
        {**SPEC, "metrics": []},
    ],
)
def test_malformed_path_specs_are_refused(document: Any) -> None:
    with pytest.raises(Malformed):
        TaskPath.from_json(document)


def test_publishing_what_is_live_again_tells_the_live_version(tmp_path: Path) -> None:
    """Also where another version has the same manifest."""
    store = new_store(tmp_path)
    assert [publish(store, "t", seed) for seed in (1, 2, 1)] == [1, 2, 3]
    store.rollback("t", 1)
    assert publish(store, "t", 1) == 1
    assert store.live()["t"][0] == 1 and list(store.versions("t")) == [1, 2, 3]


def test_what_took_effect_without_an_answer_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path)
    for seed in (1, 2):
        publish(store, "t", seed)
    replace, unanswered = LocalStorage.replace, ["refs/tasks/t"]

    def late(self: LocalStorage, key: str, data: bytes, version: object) -> bool:
        done = replace(self, key, data, version)
        if key in unanswered:
            unanswered.remove(key)
            raise Unsure("not answered")
        return done

    monkeypatch.setattr(LocalStorage, "replace", late)
    store.rm("t", 1)  # a second time there is no such version
    assert list(store.versions("t")) == [2] and not unanswered
