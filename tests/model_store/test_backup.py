"""A backup is the same store elsewhere: incremental, never over what is newer, restorable."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from model_store import AgentMoved, ExchangeError, ModelStore, StoreNotFound, UnknownFormat
from model_store.exchange.oci_layout import LayoutPlace
from model_store.exchange.signing import sign
from model_store.exchange.transfer import StorePlace, transfer
from model_store.files.local import LocalStorage
from model_store.files.objects import ObjectStorage
from model_store.reading import load_manifest
from model_store.upkeep import collect_garbage, verify_store
from model_store.upkeep.backup import BackupReport, backup
from model_store.upkeep.repair import repair
from tests.model_store.object_stores import S3Server
from tests.model_store.places import Place
from tests.model_store.samples import arrays, blob_file, document, new_store, publish

KEY = ed25519.Ed25519PrivateKey.generate()


def fill(store: ModelStore) -> None:
    """Something of every kind that a store keeps."""
    for seed in (1, 2, 3):
        publish(store, "a/b", seed)
    publish(store, "other", 4)
    publish(store, "gone", 5)
    store.rm("gone")
    store.rm("a/b", 1)
    store.rollback("a/b", 2)
    store.alias("a/b", "canary", 3)
    store.save_agent("agent/x", {"n": 1}, [store.put(arrays(6))])
    store.pin("keep/this", store.resolve("other").digest)
    signed = store.resolve("a/b").digest
    store.add_signature(signed, sign(signed, "a/b", KEY))


def content(store: ModelStore) -> dict[str, Any]:
    """All that a store tells its users, every byte of it read."""
    tasks = {}
    for task in store.refs.tasks():
        numbers = store.versions(task)
        history = [store.resolve(task, number) for number in numbers]
        for item in history:
            for digest in item.path.components.values():
                store.component(digest)
        tasks[task] = (
            [(p.version, p.digest, p.created, p.path, p.sizes) for p in history],
            store.aliases(task),
            [[s.base64 for s in store.signatures(digest)] for digest in numbers.values()],
        )
    return {
        "tasks": tasks,
        "live": dict(store.live()),
        "agents": {agent: store.agent_state(agent) for agent in store.agents()},
        "pins": store.pins(),
    }


def require_equal(source: ModelStore, copy: str) -> None:
    """The copy is sound, and tells what the source tells."""
    found = ModelStore(copy)
    assert verify_store(found) == []
    assert content(found) == content(source)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """A store that has something of every kind."""
    made = new_store(tmp_path)
    fill(made)
    return made


def whole(report: BackupReport) -> BackupReport:
    """The report of a run that has nothing to complain of."""
    assert report.problems == ()
    return report


# -- what is copied


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


@pytest.mark.parametrize("there", ["to S3", "from S3", "within S3"])
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


# -- what is refused


def state(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below one, and what the files hold."""
    found = (p for p in folder.rglob("*") if p.name not in ("lock.gc", "gc"))
    return {str(p): p.read_bytes() if p.is_file() else None for p in found}


def refused(source: str, place: Path, error: type[Exception], match: str) -> None:
    """A backup ends with this error, and changes nothing at its destination."""
    before = state(place)
    with pytest.raises(error, match=match):
        backup(source, str(place))
    assert state(place) == before


def test_another_store_is_refused(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = new_store(tmp_path / "other")
    publish(other, "t", 1)
    refused(store.url, Path(other.url), ExchangeError, "expected a copy of the store")


def test_a_folder_that_holds_something_else_is_refused(store: ModelStore, tmp_path: Path) -> None:
    for name in ("photo.jpg", "deep/er/photo.jpg", "tmp/photo.jpg", "blobs/sha256/" + "0" * 64):
        place = tmp_path / name.replace("/", "-")
        (place / name).parent.mkdir(parents=True)
        (place / name).write_bytes(b"something")
        refused(store.url, place, ExchangeError, f"such as {name}")


def test_a_prefix_that_holds_something_else_is_refused(
    store: ModelStore, s3: S3Server, s3_store: Place
) -> None:
    prefix = s3_store.url.rpartition("/")[2]
    obstore.put(s3.client(prefix), "photo.jpg", b"something")
    with pytest.raises(ExchangeError, match=r"such as photo\.jpg"):
        backup(store.url, s3_store.url)
    assert s3.paths(prefix) == ["photo.jpg"]


def test_a_store_and_its_copy_are_apart(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(store.url)
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    before = state(root)
    inside = (str(root / "backup"), str(root / "blobs"), str(tmp_path), f"{tmp_path}/link/x")
    for place in (store.url, f"{root}/", f"file://{root}", "store", f"{tmp_path}/link", *inside):
        with pytest.raises(ExchangeError, match="two places, neither inside the other"):
            backup(store.url, place)
    assert state(root) == before


def test_two_names_of_one_place_are_noticed(
    s3: S3Server, s3_store: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with another endpoint of a bucket, or a folder that is mounted twice."""
    store = s3_store.open(create=True)
    publish(store, "t", 1)
    other = ObjectStorage.open(s3_store.url)
    other.url = "s3://other/name"
    there = {s3_store.url: ObjectStorage.open(s3_store.url), other.url: other}
    monkeypatch.setattr("model_store.upkeep.backup.open_storage", there.__getitem__)
    with pytest.raises(ExchangeError, match="two places"):
        backup(s3_store.url, other.url)
    assert verify_store(store) == []


@pytest.mark.parametrize("which", ["source", "destination"])
def test_unknown_features_and_formats_are_refused(
    store: ModelStore, tmp_path: Path, which: str
) -> None:
    backup(store.url, str(tmp_path / "backup"))
    publish(store, "a/b", 9)
    marker = (Path(store.url) if which == "source" else tmp_path / "backup") / "munet-store"
    good = json.loads(marker.read_text())
    for change, match in (({"features": ["further-refs"]}, "further-refs"), ({"format": 3}, "3")):
        marker.write_text(json.dumps({**good, **change}))
        refused(store.url, tmp_path / "backup", UnknownFormat, match)


def test_no_store_is_no_source(tmp_path: Path) -> None:
    for place in ("nothing", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(StoreNotFound, match="expected a file munet-store"):
            backup(str(tmp_path / place), str(tmp_path / "backup"))
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


# -- what is damaged, lost or put back


def test_a_document_that_is_newer_in_the_copy_is_left_there(
    store: ModelStore, tmp_path: Path
) -> None:
    copy = ModelStore(Path(store.url).rename(tmp_path / "backup"))
    backup(copy.url, store.url)
    store = ModelStore(store.url)  # another one, in its place
    publish(copy, "a/b", 9)
    publish(copy, "only/there", 9)
    publish(store, "other", 8)
    there = copy.versions("a/b")
    report = backup(store.url, copy.url)
    assert [p.split(" is not")[0] for p in report.problems] == [
        "refs/tasks/a%2Fb",
        "refs/tasks/only%2Fthere",
    ]
    assert copy.versions("a/b") == there and copy.versions("only/there")
    assert copy.versions("other") == store.versions("other") and verify_store(copy) == []


def test_both_written_to_apart(store: ModelStore, tmp_path: Path) -> None:
    """Even where the source has been written to more often."""
    copy = str(tmp_path / "backup")
    backup(store.url, copy)
    publish(ModelStore(copy), "a/b", 20)
    for seed in range(21, 25):
        publish(store, "a/b", seed)
    before = ModelStore(copy).versions("a/b")
    report = backup(store.url, copy)
    assert len(report.problems) == 1 and "it was written to" in report.problems[0]
    assert ModelStore(copy).versions("a/b") == before


def test_a_source_that_was_put_back(store: ModelStore, tmp_path: Path) -> None:
    copy = str(tmp_path / "backup")
    old = tmp_path / "old"
    shutil.copytree(store.url, old)
    publish(store, "a/b", 9)
    backup(store.url, copy)
    shutil.rmtree(store.url)
    old.rename(store.url)
    report = backup(store.url, copy)
    assert len(report.problems) == 1
    require_equal_task(ModelStore(copy), "a/b", 4)


def test_a_document_of_the_source_that_was_put_back(store: ModelStore, tmp_path: Path) -> None:
    """Its second copy tells, so a first backup does not pass it off as what there was."""
    file = document(store, "a/b")
    old = file.read_bytes()
    publish(store, "a/b", 9)
    file.write_bytes(old)
    report = backup(store.url, str(tmp_path / "backup"))
    assert len(report.problems) == 1 and "put back" in report.problems[0]
    assert sorted(ModelStore(tmp_path / "backup").tasks()) == ["other"]


def require_equal_task(store: ModelStore, task: str, newest: int) -> None:
    """A task has this version, and the store is sound."""
    assert verify_store(store) == [] and max(store.versions(task)) == newest


DAMAGES: dict[str, Callable[[Path], object]] = {
    "lost": lambda file: file.unlink(),
    "cut off": lambda file: os.truncate(file, 10),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a link": lambda file: (file.unlink(), file.symlink_to("/etc/passwd")),
    "changed": lambda file: file.write_bytes(file.read_bytes().replace(b"a", b"b")),
    "empty": lambda file: file.write_bytes(b""),
}


RARE = [pytest.param(d, marks=pytest.mark.slow) for d in DAMAGES if d not in ("lost", "changed")]


@pytest.mark.parametrize("damage", ["lost", "changed", *RARE])
@pytest.mark.parametrize("before", [True, False], ids=["backed up before", "never backed up"])
@pytest.mark.parametrize("what", ["document", "document and copy", "head", "manifest", "spec"])
def test_what_is_damaged_is_named_and_all_else_copied(
    store: ModelStore, tmp_path: Path, damage: str, before: bool, what: str
) -> None:
    if what == "document and copy" and not (before and damage == "lost"):
        return
    copy = str(tmp_path / "backup")
    good = content(store)
    if before:
        whole(backup(store.url, copy))
        publish(store, "other", 8)
        publish(store, "a/b", 9)  # needs what is damaged below
    found = store.resolve("a/b")
    if what.startswith("document"):
        DAMAGES[damage](document(store, "a/b"))
        if "copy" in what:
            DAMAGES[damage](Path(store.url) / "copies/tasks/a%2Fb")
    else:
        spec = next(b.digest for b in load_manifest(store.blobs, found.digest).layers)
        digests = {"head": found.path.components["head"], "manifest": found.digest, "spec": spec}
        DAMAGES[damage](blob_file(store, digests[what]))
    report = backup(store.url, copy)
    assert any("refs/tasks/a%2Fb" in problem for problem in report.problems)
    assert all(str(store.url) in problem for problem in report.problems)
    saved = ModelStore(copy)
    assert verify_store(saved) == []
    assert saved.versions("other") == store.versions("other") and saved.agents() == ["agent/x"]
    if before:
        assert content(saved)["tasks"]["a/b"] == good["tasks"]["a/b"]
    else:
        assert not saved.versions("a/b")


def test_a_blob_that_only_the_copy_has_is_no_loss(store: ModelStore, tmp_path: Path) -> None:
    copy = str(tmp_path / "backup")
    backup(store.url, copy)
    shared = store.resolve("a/b").path.components["embedding"]
    publish(store, "a/b", 9)
    blob_file(store, shared).unlink()
    whole(backup(store.url, copy))
    assert verify_store(ModelStore(copy)) == [] and 4 in ModelStore(copy).versions("a/b")


def test_a_damaged_copy_is_named_and_left(store: ModelStore, tmp_path: Path) -> None:
    copy = tmp_path / "backup"
    backup(store.url, str(copy))
    publish(store, "a/b", 9)
    publish(store, "other", 9)
    os.truncate(copy / "refs/tasks/a%2Fb", 10)
    report = backup(store.url, str(copy))
    assert len(report.problems) == 1 and str(copy / "refs/tasks/a%2Fb") in report.problems[0]
    assert ModelStore(copy).versions("other") == store.versions("other")
    # A blob of another size is noticed where something new needs it.
    shared = store.resolve("a/b").path.components["embedding"]
    os.truncate(copy / "blobs/sha256" / shared[7:], 10)
    publish(store, "other", 10)
    report = backup(store.url, str(copy))
    assert [("10 bytes" in p) for p in report.problems] == [False, True]


def test_a_copy_that_was_repaired_goes_on(store: ModelStore, tmp_path: Path) -> None:
    """Who repairs a document writes it once more; that is no change of what it says."""
    copy = tmp_path / "backup"
    backup(store.url, str(copy))
    for number, lost in enumerate((os.unlink, lambda file: os.truncate(file, 10))):
        lost(copy / "refs/tasks/a%2Fb")
        repair(str(copy))
        assert verify_store(ModelStore(copy)) == []
        whole(backup(store.url, str(copy)))
        publish(store, "a/b", 20 + number)
        whole(backup(store.url, str(copy)))
        require_equal(store, str(copy))
    # Where the source has gone on before, it is removed from the copy, and written again.
    os.truncate(copy / "refs/tasks/a%2Fb", 10)
    repair(str(copy))
    publish(store, "a/b", 30)
    assert len(backup(store.url, str(copy)).problems) == 1
    for kind in ("refs", "copies"):
        (copy / kind / "tasks/a%2Fb").unlink()
    whole(backup(store.url, str(copy)))
    require_equal(store, str(copy))


@pytest.mark.parametrize("call", ["names", "load"])
@pytest.mark.parametrize("before", [True, False], ids=["backed up before", "never backed up"])
def test_a_store_that_goes_away_is_no_damage_of_its_documents(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, before: bool
) -> None:
    copy = str(tmp_path / "backup")
    if before:
        backup(store.url, copy)
    saved = content(store)
    publish(store, "other", 8)
    here = LocalStorage(Path(store.url))
    really = getattr(here, call)

    def vanish(*arguments: Any) -> Any:
        if Path(store.url).exists():
            Path(store.url).rename(tmp_path / "away")
        return really(*arguments)

    monkeypatch.setattr(here, call, vanish)
    storages = {store.url: here, copy: LocalStorage(Path(copy))}
    with monkeypatch.context() as patch:
        patch.setattr("model_store.upkeep.backup.open_storage", storages.__getitem__)
        with pytest.raises(StoreNotFound, match="it was there"):
            backup(store.url, copy)
    if before:
        assert content(ModelStore(copy)) == saved
    else:
        with pytest.raises(StoreNotFound, match="a backup is being copied to it"):
            ModelStore(copy)


# -- restoring


def test_a_restored_store_goes_on(store: ModelStore, tmp_path: Path) -> None:
    copy = str(tmp_path / "backup")
    told = content(store)
    backup(store.url, copy)
    shutil.rmtree(store.url)
    assert whole(backup(copy, store.url)).made
    restored = ModelStore(store.url)
    require_equal(restored, copy)
    assert content(restored) == told
    assert publish(restored, "a/b", 9) == 4
    assert publish(restored, "gone", 9) == 2  # a number is never used again
    with pytest.raises(AgentMoved):
        restored.save_agent("agent/x", {}, [], replacing=None)
    collect_garbage(restored, grace_s=0)
    whole(backup(restored.url, copy))
    require_equal(restored, copy)


def test_documents_are_restored_in_place(store: ModelStore, tmp_path: Path) -> None:
    """All of them lost, or some; those there are newer, and stay."""
    copy = str(tmp_path / "backup")
    backup(store.url, copy)
    told = content(store)
    for lost in ("refs/tasks", "refs", "copies"):
        shutil.rmtree(Path(store.url) / lost)
        whole(backup(copy, store.url))
        found = ModelStore(store.url)
        assert verify_store(found) == [] and content(found) == told
    publish(store, "other", 9)
    document(store, "a/b").unlink()
    report = backup(copy, store.url)
    assert len(report.problems) == 1 and "tasks/other" in report.problems[0]
    assert max(store.versions("a/b")) == 3 and max(store.versions("other")) == 2
    assert verify_store(ModelStore(store.url)) == []


def test_what_was_acknowledged_since_is_not_taken_back(store: ModelStore, tmp_path: Path) -> None:
    """The lost document's second copy tells that the backup is older."""
    copy = str(tmp_path / "backup")
    backup(store.url, copy)
    publish(store, "a/b", 9)
    document(store, "a/b").unlink()
    report = backup(copy, store.url)
    assert len(report.problems) == 1 and not document(store, "a/b").exists()


def test_what_the_page_says_of_single_files(store: ModelStore, tmp_path: Path) -> None:
    """Damaged ones are removed, and come back out of the copy; a task that was removed, too."""
    copy, root = tmp_path / "backup", Path(store.url)
    backup(store.url, str(copy))
    told = content(store)
    os.truncate(document(store, "a/b"), 10)
    assert backup(str(copy), store.url).problems
    document(store, "a/b").unlink()
    whole(backup(str(copy), store.url))
    head = store.resolve("a/b").path.components["head"]
    os.truncate(blob_file(store, head), 10)
    blob_file(store, head).unlink()
    shutil.copy2(copy / "blobs/sha256" / head[7:], root / "blobs/sha256")
    shutil.move(root / "munet-store", tmp_path)
    shutil.copy2(copy / "munet-store", root)
    assert verify_store(ModelStore(root)) == [] and content(store) == told
    store = ModelStore(root)  # by another marker
    store.rm("other")
    transfer(StorePlace(ModelStore(copy)), StorePlace(store), ["other"])
    assert store.resolve("other").version == 2


# -- the command


def command(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of `munet store backup`."""
    done = subprocess.run(
        [sys.executable, "-m", "model_store", "backup", *arguments],
        capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command(store: ModelStore, tmp_path: Path) -> None:
    copy = str(tmp_path / "backup")
    code, output, errors = command(store.url, copy)
    assert (code, errors) == (0, "") and len(output.splitlines()) == 1 and len(output) <= 81
    assert re.fullmatch(
        r"a new copy: 6 of 6 documents and \d+ blobs \([\d.]+ kB\) copied in [\d.]+ s\n", output
    )
    publish(store, "other", 9)
    os.truncate(document(store, "a/b"), 10)
    code, output, errors = command(store.url, copy)
    assert code == 1 and output.startswith("1 of 6 documents and 4 blobs (")
    assert "refs/tasks/a%2Fb is not backed up" in errors and len(errors.splitlines()) == 2
    code, output, errors = command(store.url, store.url)
    assert code == 1 and output == "" and "expected two places" in errors
