"""What a backup copies, and what it costs the second time."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from model_store import ModelStore, StoreNotFound, UnknownFormat
from model_store.exchange.oci_layout import LayoutPlace
from model_store.exchange.signing import sign
from model_store.exchange.transfer import StorePlace, transfer
from model_store.files.local import LocalStorage
from model_store.upkeep import collect_garbage, verify_store
from model_store.upkeep.backup import backup
from tests.model_store.backup.full_store import fill, require_equal, whole
from tests.model_store.object_stores import S3Server
from tests.model_store.places import Place
from tests.model_store.samples import arrays, blob_file, new_store, publish


def test_a_backup_tells_all_that_the_store_tells(store: ModelStore, tmp_path: Path) -> None:
    report = whole(backup(store.url, str(tmp_path / "backup")))
    assert report.made and report.documents == report.copied_documents == 6
    require_equal(store, str(tmp_path / "backup"))
    assert report.copied_blobs == len(list((tmp_path / "backup/blobs/sha256").iterdir()))


def test_nothing_that_is_copied_shares_a_file(store: ModelStore, tmp_path: Path) -> None:
    """Else who writes to one of them changes, or cuts short, what is in all."""
    layout, copy, again = (tmp_path / name for name in ("layout", "copy", "again"))
    whole(backup(store.url, str(tmp_path / "backup")))
    transfer(StorePlace(store), LayoutPlace(layout), history=True)
    transfer(StorePlace(store), StorePlace(ModelStore(copy, create=True)))
    transfer(LayoutPlace(layout), StorePlace(ModelStore(again, create=True)))
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len({file.stat().st_ino for file in files}) == len(files) > 100
    assert {file.stat().st_nlink for file in files} == {1}


@pytest.mark.parametrize(
    "there", ["to S3", pytest.param("from S3", marks=pytest.mark.slow), "within S3"]
)
def test_between_folders_and_buckets(
    s3: S3Server, s3_store: Place, tmp_path: Path, there: str
) -> None:
    here = new_store(tmp_path) if there == "to S3" else s3_store.open(create=True)
    fill(here)
    place = str(tmp_path / "backup") if there == "from S3" else s3.url(f"{tmp_path.name}-backup")
    whole(backup(here.url, place))
    require_equal(here, place)
    publish(here, "a/b", 9)
    assert whole(backup(here.url, place)).copied_documents == 1
    require_equal(here, place)
    assert whole(backup(here.url, place)).copied_documents == 0
    whole(backup(place, str(tmp_path / "restored")))
    require_equal(here, str(tmp_path / "restored"))


class Counting:
    """A storage that counts its calls."""

    def __init__(self, storage: LocalStorage, calls: Counter[str]) -> None:
        self._storage = storage
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            what = str(arguments[0]).partition("/")[0] if arguments else ""
            if name == "read_many":
                arguments = (list(arguments[0]), *arguments[1:])
                what = "documents"
            self._calls[f"{name} {what}".strip()] += 1
            return found(*arguments, **options)

        return call


def counted(monkeypatch: pytest.MonkeyPatch, source: str, copy: str) -> tuple[Counter[str], ...]:
    """The calls that a backup makes to the two storages."""
    calls = Counter[str](), Counter[str]()
    storages = {
        url: Counting(LocalStorage(Path(url)), c)
        for url, c in zip((source, copy), calls, strict=True)
    }
    with monkeypatch.context() as patch:
        patch.setattr("model_store.upkeep.backup.open_storage", storages.__getitem__)
        whole(backup(source, copy))
    return calls


def test_a_second_run_reads_documents_and_nothing_else(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = str(tmp_path / "backup")
    backup(store.url, copy)
    before = {p: p.stat().st_mtime_ns for p in Path(copy).rglob("*") if p.is_file()}
    here, there = counted(monkeypatch, store.url, copy)
    reading = {"read munet-store", "read gc", "read_many documents", "names refs", "names copies"}
    assert here.keys() <= {*reading, "settle refs", "exists"}
    writing = {"alone gc", "replace gc", "stat gc", "read refs", "exists"}
    assert there.keys() <= reading | writing
    after = {p: p.stat().st_mtime_ns for p in Path(copy).rglob("*") if p.is_file()}
    assert {p.name for p, time in after.items() if before.get(p) != time} <= {"gc", "lock.gc"}


def test_a_run_after_a_publish_copies_what_is_new(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = str(tmp_path / "backup")
    backup(store.url, copy)
    before = set(Path(copy).rglob("*"))
    publish(store, "a/b", 9)
    here, there = counted(monkeypatch, store.url, copy)
    # The head, path spec, config and manifest; the manifest is read to know of the others, too.
    assert here["load blobs"] == 4 + 1
    assert there["create blobs"] == 4 and there["load blobs"] == 0
    assert there["replace refs"] == 1 + 1 and there["replace copies"] == 1  # with the log
    assert len({p for p in set(Path(copy).rglob("*")) - before if p.parent.name != "tmp"}) == 4
    require_equal(store, copy)


def test_the_source_is_only_read(store: ModelStore, tmp_path: Path) -> None:
    def state() -> dict[str, tuple[int, int, int]]:
        found = {str(p): p.lstat() for p in [Path(store.url), *Path(store.url).rglob("*")]}
        return {p: (s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for p, s in found.items()}

    before = state()
    backup(store.url, str(tmp_path / "backup"))
    blob_file(store, store.resolve("other").digest)
    publish(ModelStore(tmp_path / "backup"), "elsewhere", 3)
    backup(store.url, str(tmp_path / "backup"))
    assert state() == before


def test_what_is_removed_is_removed_from_the_copy_and_its_gc_frees_it(
    store: ModelStore, tmp_path: Path
) -> None:
    copy = str(tmp_path / "backup")
    backup(store.url, copy)
    signed = store.resolve("a/b").digest
    store.rm("a/b")
    whole(backup(store.url, copy))
    assert "a/b" not in ModelStore(copy).tasks()
    assert collect_garbage(ModelStore(copy), grace_s=0).removed
    require_equal(store, copy)
    # The gc there has forgotten the signatures too; that is no change of somebody else.
    assert ModelStore(copy).signatures(signed) == []
    whole(backup(store.url, copy))
    collect_garbage(store, grace_s=0)
    whole(backup(store.url, copy))
    require_equal(store, copy)


OPERATIONS: dict[str, Callable[[ModelStore, random.Random], object]] = {
    "publish": lambda s, r: publish(s, r.choice("abc"), r.randrange(6)),
    "rollback": lambda s, r: s.rollback(t := r.choice("abc"), r.choice(list(s.versions(t)))),
    "alias": lambda s, r: s.alias(t := r.choice("abc"), "x", r.choice(list(s.versions(t)))),
    "remove": lambda s, r: s.rm(t := r.choice("abc"), r.choice(list(s.versions(t)))),
    "remove task": lambda s, r: s.rm(r.choice("abc")),
    "pin": lambda s, r: s.pin(r.choice("pq"), s.resolve(r.choice("abc")).digest),
    "unpin": lambda s, r: s.unpin(r.choice("pq")),
    "save": lambda s, r: s.save_agent("x", {"n": r.randrange(4)}, [s.put(arrays(r.randrange(4)))]),
    "sign": lambda s, r: sign_one(s, r.choice("abc")),
    "gc": lambda s, r: collect_garbage(s, grace_s=0),
}


def sign_one(store: ModelStore, task: str) -> None:
    """Sign what is live of a task once more."""
    digest = store.resolve(task).digest
    store.add_signature(digest, sign(digest, task, ed25519.Ed25519PrivateKey.generate()))


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(s, marks=pytest.mark.slow) for s in range(2, 60))]
)
def test_histories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """After any history, with gcs here and there and restoring, a backup tells what is told."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    choice = random.Random(seed)
    current, copy, places = new_store(tmp_path), str(tmp_path / "backup"), 0
    for _ in range(60):
        what = choice.choice([*OPERATIONS, "backup", "backup", "gc there", "restore"])
        if what == "backup":
            whole(backup(current.url, copy))
            require_equal(current, copy)
        elif what == "gc there":
            if Path(copy).exists():
                collect_garbage(ModelStore(copy), grace_s=0)
        elif what == "restore":
            whole(backup(current.url, copy))
            places += 1
            whole(backup(copy, str(tmp_path / f"restored-{places}")))
            restored = ModelStore(tmp_path / f"restored-{places}")
            require_equal(current, restored.url)
            current = restored
        else:
            try:
                OPERATIONS[what](current, choice)
            except (StoreNotFound, UnknownFormat):
                raise
            except (LookupError, Exception) as error:  # nothing to do it to
                assert type(error).__name__ in (
                    "IndexError",
                    "UnknownTask",
                    "UnknownName",
                    "LiveVersion",
                ), error
    whole(backup(current.url, copy))
    require_equal(current, copy)


def test_a_claim_of_a_writer_stays_where_it_is(store: ModelStore, tmp_path: Path) -> None:
    copy = tmp_path / "backup"
    claimed = store.resolve("other").digest
    store.refs.claim("refs/tasks/a%2Fb", claimed)
    whole(backup(store.url, str(copy)))
    for kind in ("refs", "copies"):
        assert json.loads((copy / kind / "tasks/a%2Fb").read_bytes())["claims"] == {}
    require_equal(store, str(copy))


def test_second_copies_that_are_lost_are_written_again(store: ModelStore, tmp_path: Path) -> None:
    """As of a document whose run was killed before it came to them."""
    copy = tmp_path / "backup"
    backup(store.url, str(copy))
    before = {p.name: p.read_bytes() for p in (copy / "copies").rglob("*") if p.is_file()}
    shutil.rmtree(copy / "copies")
    assert whole(backup(store.url, str(copy))).copied_blobs == 0
    after = {p.name: p.read_bytes() for p in (copy / "copies").rglob("*") if p.is_file()}
    assert after == before and verify_store(ModelStore(copy)) == []
