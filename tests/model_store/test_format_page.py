"""FORMAT.md says what the code does: its examples are read from the page and checked."""

import json
import re
from pathlib import Path

import numpy as np

import model_store
from model_store import TaskPath, decode, digest_of, encode
from model_store.blobs import Digest, key_of
from model_store.canonical_json import MAX_BYTES, MAX_SEPARATORS, encode_json
from model_store.condemned import Condemned
from model_store.leases import LEASE_S
from model_store.manifest import MAX_MANIFEST_BYTES, MAX_SPEC_BYTES, Manifest, path_manifest
from model_store.storage import Unneeded
from model_store.tensors import DTYPES, MAX_DEPTH, MAX_HEADER_BYTES, MAX_RANK, MAX_TENSOR_BYTES
from model_store.watching import ANNOUNCED_S, MAX_TASKS, RESCAN_S, announce
from tests.model_store.samples import new_store

PAGE = (Path(model_store.__file__).parent / "FORMAT.md").read_text("utf-8")
JSON_BLOCKS = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
BLOCKS = re.findall(r"is `(sha256:\w+)`:\n\n```(hex|json)\n(.*?)```", PAGE, re.DOTALL)
(COMPONENT_DIGEST, _, COMPONENT), (SPEC_DIGEST, _, SPEC), (MANIFEST_DIGEST, _, MANIFEST) = BLOCKS


def test_the_component() -> None:
    data = bytes.fromhex(COMPONENT)
    assert digest_of(data) == COMPONENT_DIGEST
    tree = {
        "kernel": np.array([[1, 2], [3, 4]], np.float32),
        "bias": np.array([0.5, -1], np.float32),
    }
    assert encode(tree) == data
    found = decode(data)
    assert isinstance(found, dict)
    assert found["kernel"].tolist() == [[1, 2], [3, 4]]
    assert found["bias"].tolist() == [0.5, -1]


def test_the_path_spec() -> None:
    path = TaskPath.from_json(json.loads(SPEC))
    assert path.to_json() == json.loads(SPEC)
    assert digest_of(path.to_bytes()) == SPEC_DIGEST
    assert path.components == {"head": COMPONENT_DIGEST}


def test_the_manifest() -> None:
    path = TaskPath.from_json(json.loads(SPEC))
    manifest, _ = path_manifest(path, {"head": 152})
    assert json.loads(manifest.to_bytes()) == json.loads(MANIFEST)
    assert digest_of(manifest.to_bytes()) == MANIFEST_DIGEST
    assert Manifest.from_bytes(encode_json(json.loads(MANIFEST), "page")) == manifest


def test_the_log_and_the_note_of_a_gc(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for task in ("cmaterdb/bangla", "a", "cmaterdb/bangla"):
        announce(store._storage, task)  # pyright: ignore[reportPrivateUsage]
    condemned = Condemned(store._storage)  # pyright: ignore[reportPrivateUsage]
    condemned.begin(Unneeded())
    condemned.condemn([key_of(Digest(COMPONENT_DIGEST))])
    for file, random in (("refs/changes", "log"), ("gc", "token")):
        found = json.loads((Path(store.url) / file).read_bytes())
        on_page = [json.loads(block) for block in JSON_BLOCKS if f'"{random}"' in block]
        changing = {name: found[name] for name in (random, "run") if name in found}
        assert [{**block, **changing} for block in on_page] == [found]


def test_limits_and_dtypes() -> None:
    assert MAX_HEADER_BYTES == 2**20 and "header 1 MiB" in PAGE
    assert f"{MAX_DEPTH} keys in a path" in PAGE and f"{MAX_RANK} axes" in PAGE
    assert MAX_TENSOR_BYTES == 2**40 and "1 TiB per tensor" in PAGE
    assert MAX_BYTES == 64 * 2**20 and "a document at 64 MiB" in PAGE
    assert MAX_MANIFEST_BYTES == MAX_SPEC_BYTES == 4 * 2**20 and "at most 4 MiB" in PAGE
    assert f"{MAX_SEPARATORS:,} brackets" in PAGE
    assert (MAX_TASKS, ANNOUNCED_S, RESCAN_S) == (500, 30.0, 120.0)
    assert LEASE_S == 120 and "at least every 30 seconds; it may be taken over" in PAGE
    listed = re.search(r"`dtype` is one of `([^`]*)`", PAGE)
    assert listed and sorted(listed[1].split()) == sorted(DTYPES)


def test_errors_exist() -> None:
    table = PAGE.split("## Errors a reader raises")[1]
    names = re.findall(r"`([A-Z]\w+)`", table)
    assert "CorruptBlob" in names
    for name in names:
        assert issubclass(getattr(model_store, name), model_store.StoreError)
