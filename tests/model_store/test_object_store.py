"""What is particular to a store in an object store: conditional writes, the cache, damage there."""

import http.server
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest

from model_store import (
    BlobNotFound,
    CorruptBlob,
    CorruptRef,
    LeaseLost,
    ModelStore,
    StorageError,
    StoreNotFound,
    UnsafeStorage,
    digest_of,
    encode,
)
from model_store.files.cache import BlobCache
from model_store.files.gc_handshake import Handshake
from model_store.files.objects import ObjectStorage
from model_store.files.protocol import Unneeded
from model_store.upkeep import collect_garbage, usage_of, verify_store
from tests.model_store.object_stores import SECRET, S3Server
from tests.model_store.places import Place
from tests.model_store.processes import start
from tests.model_store.samples import arrays, new_store, path, publish
from tests.moments import work


def test_a_store_on_s3_has_the_objects_a_folder_has_as_files(
    s3: S3Server, s3_store: Place, tmp_path: Path
) -> None:
    local = new_store(tmp_path)
    remote = s3_store.open(create=True)
    for store in (local, remote):
        publish(store, "a/b", 1)
        publish(store, "a/b", 2)
        store.rollback("a/b", 1)
        store.alias("a/b", "stable", 2)
        store.save_agent("agent", {"n": 1}, [store.put(arrays(7))])
        store.pin("keep", store.resolve("a/b", 2).digest)
    files = {str(f.relative_to(local.url)) for f in Path(local.url).rglob("*") if f.is_file()}
    objects = {p for p in s3.paths(tmp_path.name) if not p.startswith("touched/")}
    assert files - {"lock", "lock.gc", "reserve"} == objects
    for name in objects:
        if name.startswith("blobs/"):
            data = bytes(obstore.get(s3.client(tmp_path.name), name).bytes())
            assert data == (Path(local.url) / name).read_bytes(), name
    assert remote.versions("a/b") == local.versions("a/b") and remote.pins() == local.pins()
    assert remote.aliases("a/b") == local.aliases("a/b") == {"stable": 2}
    assert verify_store(remote) == verify_store(local) == []
    assert usage_of(remote) == usage_of(local)
    assert remote.load_agent("agent") == {"n": 1} and remote.agents() == ["agent"]


def test_a_prefix_without_a_store_is_none(s3_store: Place) -> None:
    with pytest.raises(StoreNotFound, match="munet-store"):
        s3_store.open()
    s3_store.open(create=True)
    assert s3_store.open().tasks() == []
    assert s3_store.open(create=True).tasks() == []


def test_what_is_there_is_not_sent_again(s3_store: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = s3_store.open(create=True)
    large = {"kernel": np.arange(2**16, dtype=np.float32)}
    digest = store.put(large)
    sent: list[int] = []
    put = obstore.put

    def counted(client: Any, key: str, data: Any, **named: Any) -> Any:
        sent.append(len(data))
        return put(client, key, data, **named)

    monkeypatch.setattr(obstore, "put", counted)
    assert s3_store.open().put(large) == digest
    assert sum(sent) == 0  # an empty mark, whose time counts
    assert s3_store.open().put({"kernel": np.arange(2**17, dtype=np.float32)}) != digest
    assert sum(sent) > 2**19


@pytest.mark.parametrize(
    "url", ["ftp://host/store", "s3:/bucket/store", "file://host/store", "docker:x", "S3:x", ""]
)
def test_other_urls_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreNotFound, match="expected a directory"):
        ModelStore(url, create=True)
    assert not list(tmp_path.iterdir())
    assert ModelStore("./with:colon", create=True).tasks() == []


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    store = ModelStore(f"file://{tmp_path}/with%20space", create=True)
    publish(store, "t", 1)
    assert ModelStore(tmp_path / "with space").tasks() == ["t"]
    assert store.url == str(tmp_path / "with space")


def test_a_server_that_does_not_answer_is_a_storage_error(
    s3_store: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_store.files.object_clients.RETRIES", {"max_retries": 0})
    environment = {**s3_store.environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    with pytest.raises(StorageError, match="s3://"):
        Place(s3_store.url, environment).open()


class Forgetful(http.server.BaseHTTPRequestHandler):
    """A server that stores objects and does not care for If-None-Match or If-Match."""

    objects: dict[str, bytes]

    def answer(self, status: int, data: bytes = b"") -> None:
        """One response."""
        self.send_response(status)
        self.send_header("ETag", f'"{digest_of(data)[7:39]}"')
        self.send_header("Last-Modified", self.date_time_string())
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.objects[self.path] = data
        self.answer(200, b"")

    def do_GET(self) -> None:
        if "list-type" in self.path:
            self.answer(200, b"<ListBucketResult></ListBucketResult>")
        elif self.path in self.objects:
            self.answer(200, self.objects[self.path])
        else:
            self.answer(404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        for key in re.findall("<Key>(.*?)</Key>", body):
            self.objects.pop(f"{self.path.split('?')[0]}/{key}", None)
        self.answer(200, b"<DeleteResult><Deleted><Key>key</Key></Deleted></DeleteResult>")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def forgetful() -> Iterator[str]:
    """Its endpoint."""
    Forgetful.objects = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forgetful)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_without_conditional_writes_is_refused(s3_store: Place, forgetful: str) -> None:
    environment = {**s3_store.environment, "AWS_ENDPOINT_URL": forgetful}
    with pytest.raises(UnsafeStorage, match="If-None-Match"):
        Place(s3_store.url, environment).open(create=True)
    assert Forgetful.objects == {}


# -- damage


def overwrite(s3: S3Server, tmp_path: Path, key: str, data: bytes) -> None:
    """Replace an object without asking the package."""
    obstore.put(s3.client(tmp_path.name), key, data)


def fresh(s3_store: Place, cache: Path) -> ModelStore:
    """The store with an empty cache."""
    return Place(s3_store.url, {**s3_store.environment, "MUNET_CACHE": str(cache)}).open()


def test_damaged_objects_are_found(s3: S3Server, s3_store: Place, tmp_path: Path) -> None:
    publish(s3_store.open(create=True), "t", 1)
    digest = s3_store.open().resolve("t").path.components["head"]
    key = f"blobs/sha256/{digest[7:]}"
    good = encode(arrays(1))
    for number, bad in enumerate((good[:-1] + b"\0\1", good[:-1], b"", b"x" * len(good))):
        overwrite(s3, tmp_path, key, bad)
        store = fresh(s3_store, tmp_path / str(number))
        with pytest.raises(CorruptBlob, match=digest):
            store.component(digest)
        (problem,) = verify_store(store)
        assert problem.digest == digest and problem.path == f"{s3_store.url}/{key}"
    obstore.delete(s3.client(tmp_path.name), key)
    store = fresh(s3_store, tmp_path / "missing")
    with pytest.raises(BlobNotFound, match=key):
        store.component(digest)
    assert store.put(arrays(1)) == digest and verify_store(store) == []


@pytest.mark.parametrize("data", [b"", b"v1", b"v9\n", b"x" * 2_000_000])
def test_damaged_refs_are_found(s3: S3Server, s3_store: Place, tmp_path: Path, data: bytes) -> None:
    publish(s3_store.open(create=True), "t", 1)
    overwrite(s3, tmp_path, "refs/tasks/t", data)
    with pytest.raises(CorruptRef, match="refs/tasks/t"):
        s3_store.open().resolve("t")
    assert [p.severity for p in verify_store(s3_store.open())] == ["error"]


def test_verify_reads_the_store_and_not_the_copies_here(
    s3: S3Server, s3_store: Place, tmp_path: Path
) -> None:
    store = s3_store.open(create=True)
    publish(store, "t", 1)
    digest = store.resolve("t").path.components["head"]
    assert store.component(digest)
    assert verify_store(store) == []
    key = f"blobs/sha256/{digest[7:]}"
    overwrite(s3, tmp_path, key, b"x" * store.size(digest))
    (problem,) = verify_store(store)
    assert f"{s3_store.url}/{key}" in problem.message and digest in problem.message


# -- the cache


def cached(tmp_path: Path) -> dict[str, int]:
    """Blob -> inode of what the cache holds."""
    files = (tmp_path / "cache/munet-blobs").iterdir()
    return {file.name: file.stat().st_ino for file in files if len(file.name) == 64}


def test_a_path_fetches_only_the_blobs_it_lacks(s3_store: Place, tmp_path: Path) -> None:
    store = s3_store.open(create=True)
    publish(store, "a", 1)
    publish(store, "b", 2)
    for file in (tmp_path / "cache/munet-blobs").iterdir():
        file.unlink()
    a, b = (s3_store.open().resolve(task).path.components for task in ("a", "b"))
    for digest in a.values():
        s3_store.open().component(digest)
    before = cached(tmp_path)
    assert {digest[7:] for digest in a.values()} < before.keys()
    reader = s3_store.open()
    for digest in b.values():
        reader.component(digest)
    after = cached(tmp_path)
    assert before.items() < after.items()
    assert after.keys() - before.keys() == {b["head"][7:]}


def test_a_wrong_copy_in_the_cache_is_read_anew(s3_store: Place, tmp_path: Path) -> None:
    store = s3_store.open(create=True)
    digest = store.put(arrays(1))
    expected = np.asarray(store.component(digest)["kernel"]).copy()  # pyright: ignore
    copy = tmp_path / "cache/munet-blobs" / digest[7:]
    for bad in (b"", b"x", copy.read_bytes()[:-4] + b"abcd"):
        copy.write_bytes(bad)
        found = s3_store.open().component(digest)
        np.testing.assert_array_equal(found["kernel"], expected)  # pyright: ignore
        assert digest_of(copy.read_bytes()) == digest


def test_the_cache_removes_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "~draft.txt").write_text("mine")
    (tmp_path / ("n" * 64)).write_text("mine too")
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    cache = BlobCache(tmp_path, 1200)
    for data in (b"a" * 1000, b"b" * 1000):
        cache.load(digest_of(data)[7:], None, lambda file, data=data: file.write(data))  # type: ignore
    after = {file.name: file.read_text() for file in tmp_path.iterdir() if file.is_file()}
    assert after == before


def test_the_cache_is_bounded_and_drops_what_was_used_least_lately(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 3000)
    blobs = {digest_of(data)[7:]: data for data in (bytes([n]) * 1000 for n in range(6))}
    asked: list[str] = []

    def load(name: str) -> bytes:
        def fetch(file: object) -> None:
            asked.append(name)
            file.write(blobs[name])  # type: ignore[attr-defined]
            file.flush()  # type: ignore[attr-defined]

        return bytes(cache.load(name, None, fetch))

    names = list(blobs)
    for name in names[:3]:
        assert load(name) == blobs[name]
        os.utime(tmp_path / "munet-blobs" / name, (1, 1))
    load(names[0])  # used again: now the second is the oldest
    kept = cache.load(names[1], None, lambda file: None)
    os.utime(tmp_path / "munet-blobs" / names[1], (0, 0))
    load(names[3])
    here = {file.name for file in tmp_path.rglob("*") if len(file.name) == 64}
    assert here == {names[0], names[2], names[3]}
    assert bytes(kept) == blobs[names[1]]  # what was handed out stays readable
    assert asked == names[:4]


def fetch_all(place: Place, digests: list[str], answers: object) -> None:
    """Read components for ever."""
    while True:
        store = place.open()
        for digest in digests:
            store.component(digest)
        answers.send(1)  # type: ignore[attr-defined]
        for file in Path(place.environment["MUNET_CACHE"], "munet-blobs").iterdir():
            file.unlink(missing_ok=True)


def test_processes_share_the_cache_and_may_be_killed(s3_store: Place, tmp_path: Path) -> None:
    store = s3_store.open(create=True)
    digests = [store.put(arrays(seed, 700)) for seed in range(3)]  # 2 MB each
    for round_number in range(3):
        readers = [start(fetch_all, s3_store, digests) for _ in range(3)]
        for _, answers in readers:
            assert answers.poll(60)
        work(40 * round_number)
        for process, _ in readers:
            assert process.is_alive() and process.pid
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        for digest in digests:
            assert s3_store.open().component(digest)
    assert not [f for f in (tmp_path / "cache/munet-blobs").iterdir() if f.name.startswith("~")]


def test_large_blobs_come_in_parts(
    s3_store: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_store.files.objects.PART_BYTES", 100_000)
    store = s3_store.open(create=True)
    digest = store.put(arrays(1, 500))
    np.testing.assert_array_equal(
        store.component(digest)["kernel"],  # pyright: ignore
        arrays(1, 500)["kernel"],
    )


# -- leases


def test_a_lease_is_taken_over_when_its_holder_is_silent(
    s3_store: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_store.open(create=True)
    storage = store.storage
    with monkeypatch.context() as patch:
        patch.setattr("model_store.files.leases.LEASE_S", 1.0)
        patch.setattr("model_store.files.leases.LEASE_POLL_S", 0.05)
        # The second one gets it after a second of silence.
        with storage.alone("gc") as silent, storage.alone("gc") as next_one:
            next_one.renew()
            with pytest.raises(LeaseLost, match="leases/gc"):
                time.sleep(0.2)
                silent.renew()
    collect_garbage(store)


def test_what_a_dead_gc_was_removing_is_there_for_who_needs_it(s3_store: Place) -> None:
    store = s3_store.open(create=True)
    publish(store, "t", 1)
    old = store.put(arrays(5))
    storage = store.storage
    assert isinstance(storage, ObjectStorage)
    dead = Handshake(storage)
    dead.begin(Unneeded())
    dead.propose([f"blobs/sha256/{old[7:]}"])
    assert dead.doom([f"blobs/sha256/{old[7:]}"])
    assert store.put(arrays(5)) == old  # needs what is doomed, and nobody holds the lease
    assert store.component(old) and verify_store(store) == []
    store.publish(path("u", {"head": old}))


def test_credentials_are_not_in_messages(s3_store: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_store.files.object_clients.RETRIES", {"max_retries": 0})
    wrong = {**s3_store.environment, "AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    with pytest.raises(StorageError) as caught:
        Place(s3_store.url, wrong).open()
    assert SECRET not in str(caught.value) and "not-the-secret" not in str(caught.value)
