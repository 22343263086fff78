"""FORMAT.md says what the code does: its examples are read from the page and checked."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np

import model_store
from model_store import TaskPath, decode, digest_of, encode, refs
from model_store.blobs import Digest, key_of
from model_store.canonical_json import MAX_BYTES, MAX_SEPARATORS, encode_json
from model_store.files import ballast
from model_store.files.gc_handshake import Handshake
from model_store.files.leases import LEASE_S
from model_store.files.protocol import MAX_SMALL_BYTES, Unneeded
from model_store.manifest import MAX_MANIFEST_BYTES, MAX_SPEC_BYTES, Manifest, path_manifest
from model_store.refs import Document
from model_store.tensors import DTYPES, MAX_DEPTH, MAX_HEADER_BYTES, MAX_RANK, MAX_TENSOR_BYTES
from model_store.versions import Versions
from model_store.watching import ANNOUNCED_S, MAX_TASKS, RESCAN_S, announce
from tests.model_store.format_page import PAGE, on_page
from tests.model_store.samples import new_store

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


def test_the_log_and_the_file_of_a_gc(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for task in ("cmaterdb/bangla", "a", "cmaterdb/bangla"):
        announce(store.storage, task)
    handshake = Handshake(store.storage)
    handshake.begin(Unneeded())
    handshake.count(1, fewer=False)
    handshake.end()
    handshake.propose([key_of(Digest(COMPONENT_DIGEST))])
    for file, random in (("refs/changes", "log"), ("gc", "token")):
        found = json.loads((Path(store.url) / file).read_bytes())
        changing = {name: found[name] for name in (random, "run", "check") if name in found}
        assert {**on_page(random), **changing} == found
    marker = json.loads((Path(store.url) / "munet-store").read_bytes())
    assert {**on_page("features"), "id": marker["id"]} == marker


def test_a_document() -> None:
    on = on_page("claims")
    key = "refs/tasks/cmaterdb%2Fbangla"
    found = Document(on["value"], on["claims"], tuple(on["tokens"]), on["count"]).to_bytes(key)
    assert json.loads(found) == on
    document = Document.from_bytes(key, found)
    assert Versions.from_json(document.value).to_json() == on["value"]
    text = found.decode().partition(",")[2]
    assert on["check"] == hashlib.sha256(f"{key}\n{{{text[:-1]}".encode()).hexdigest()


def test_limits_and_dtypes() -> None:
    assert MAX_HEADER_BYTES == 2**20 and "header 1 MiB" in PAGE
    assert f"{MAX_DEPTH} keys in a path" in PAGE and f"{MAX_RANK} axes" in PAGE
    assert MAX_TENSOR_BYTES == 2**40 and "1 TiB per tensor" in PAGE
    assert MAX_BYTES == 64 * 2**20 and "a document at 64 MiB" in PAGE
    assert MAX_MANIFEST_BYTES == MAX_SPEC_BYTES == 4 * 2**20 and "at most 4 MiB" in PAGE
    assert f"{MAX_SEPARATORS:,} brackets" in PAGE
    assert f"beyond {refs.MAX_BYTES:,} bytes" in PAGE
    assert f"{MAX_SMALL_BYTES - refs.MAX_BYTES:,} more" in PAGE
    assert (MAX_TASKS, ANNOUNCED_S, RESCAN_S) == (500, 30.0, 120.0)
    assert ballast.SIZE == 2 * 2**20 and "`reserve` (2 MiB" in PAGE
    assert LEASE_S == 120 and "has not changed for 120 seconds" in PAGE
    listed = re.search(r"`dtype` is one of `([^`]*)`", PAGE)
    assert listed and sorted(listed[1].split()) == sorted(DTYPES)


def test_errors_exist() -> None:
    table = PAGE.split("## Errors a reader raises")[1]
    names = re.findall(r"`([A-Z]\w+)`", table)
    assert "CorruptBlob" in names
    for name in names:
        assert issubclass(getattr(model_store, name), model_store.StoreError)
