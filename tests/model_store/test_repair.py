"""verify --repair: what was acknowledged reads back, or is named; nothing is made worse."""

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store import Digest, ModelStore
from model_store.cli.verifying import app
from model_store.errors import RegistryError, StoreError
from model_store.exchange.oci_layout import LayoutPlace
from model_store.exchange.transfer import StorePlace, transfer
from model_store.files.local import LocalStorage
from model_store.files.object_clients import Clients
from model_store.files.protocol import MARKER
from model_store.upkeep import collect_garbage, verify_store
from model_store.upkeep.repair import BlobSource, RepairReport, StoreSource, repair
from tests.model_store.memory_s3 import memory_s3
from tests.model_store.overtaken import Overtaken
from tests.model_store.registries import place as registry_place
from tests.model_store.registries import push, registry
from tests.model_store.samples import arrays, publish
from tests.model_store.sweeps import Damage, contents, copied, damages, facts, sample_store


@dataclass(frozen=True)
class Original:
    """A whole store, what it holds, and all damages of its files."""

    folder: Path
    facts: object
    damages: list[Damage]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """Of the sweep."""
    folder = tmp_path_factory.mktemp("repair") / "store"
    earlier = sample_store(folder)
    found = [d for d in damages(contents(folder), earlier) if d.name != MARKER]
    return Original(folder, facts(ModelStore(folder)), found)


def one_in(every: int, found: list[Damage]) -> list[Damage]:
    """One damage in `every`, and one of each kind that is not among those."""
    taken = found[::every]
    kinds = {one.kind for one in taken}
    return [*taken, *{one.kind: one for one in found if one.kind not in kinds}.values()]


def errors(report: RepairReport) -> list[str]:
    """What is wrong still."""
    return [problem.message for problem in report.problems if problem.severity == "error"]


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_every_damage_is_repaired_from_a_backup(
    original: Original, tmp_path: Path, every: int
) -> None:
    backup = StoreSource(str(copied(original.folder, tmp_path / "backup")))
    for damage in one_in(every, original.damages):
        root = copied(original.folder, tmp_path / "store")
        damage.do(root)
        report = repair(str(root), backup)
        assert errors(report) == [], str(damage)
        assert verify_store(ModelStore(root)) == [] and repair(str(root)).repaired == ()
        assert facts(ModelStore(root)) == original.facts, str(damage)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_documents_are_repaired_from_their_own_copies(
    original: Original, tmp_path: Path, every: int
) -> None:
    # Which of two that differ is false nobody can tell who has no third: the copy counts.
    found = [
        d for d in original.damages
        if not d.name.startswith("blobs/") and (d.kind != "alias changed" or "refs/" in d.name)
    ]  # fmt: skip
    for damage in one_in(every, found):
        root = copied(original.folder, tmp_path / "store")
        damage.do(root)
        assert errors(repair(str(root))) == [], str(damage)
        assert verify_store(ModelStore(root)) == []
        assert facts(ModelStore(root)) == original.facts, str(damage)
        publish(ModelStore(root), "a/t", 70)  # writers go on


def test_a_blob_without_a_source_is_named(original: Original, tmp_path: Path) -> None:
    for damage in [d for d in original.damages if d.name.startswith("blobs/")][::7]:
        root = copied(original.folder, tmp_path / "store")
        damage.do(root)
        report = repair(str(root))
        assert report.repaired == () and any(damage.name in e for e in errors(report))


def test_a_damaged_blob_that_nothing_needs_is_removed(original: Original, tmp_path: Path) -> None:
    root = copied(original.folder, tmp_path / "store")
    digest = ModelStore(root).put(arrays(99))
    (root / "blobs/sha256" / digest[7:]).write_bytes(b"?")
    assert len(repair(str(root)).repaired) == 1
    assert verify_store(ModelStore(root)) == [] and ModelStore(root).put(arrays(99)) == digest
    assert facts(ModelStore(root)) == original.facts


@pytest.fixture(scope="module")
def places(
    original: Original, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[BlobSource]]:
    """A layout and a registry that hold all versions."""
    folder = tmp_path_factory.mktemp("places")
    layout = LayoutPlace(folder / "layout")
    store = ModelStore(original.folder)
    transfer(StorePlace(store), layout, history=True)
    with registry(folder) as running:
        push(store, running.host, "all", history=True)
        yield [layout, registry_place(running.host, "all")]


def test_versions_are_repaired_from_a_layout_and_a_registry(
    original: Original, tmp_path: Path, places: list[BlobSource]
) -> None:
    store = ModelStore(original.folder)
    held = {f"blobs/sha256/{digest[7:]}" for digest in _of_versions(store)}
    found = [d for d in original.damages if d.name in held and d.kind in ("missing", "flipped")]
    for source in places:
        for damage in found[::3]:
            root = copied(original.folder, tmp_path / "store")
            damage.do(root)
            assert errors(repair(str(root), source)) == [], (str(source), str(damage))
            assert facts(ModelStore(root)) == original.facts


def _of_versions(store: ModelStore) -> set[Digest]:
    history = [version for task in store.tasks() for version in store.history(task)]
    components = {d for version in history for d in version.path.components.values()}
    return components | {version.digest for version in history}


class Failing:
    """A place that fails after some blobs, or gives what no digest is of."""

    def __init__(self, source: BlobSource, after: int, error: Exception) -> None:
        self._source, self._left, self._error = source, after, error

    def read_blob(self, digest: Digest) -> memoryview:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return self._source.read_blob(digest)


def test_nothing_is_worse_when_the_place_fails_half_way(original: Original, tmp_path: Path) -> None:
    blobs = [d for d in original.damages if d.name.startswith("blobs/") and d.kind == "flipped"]
    backup = StoreSource(str(original.folder))
    for after in range(0, len(blobs), 4):
        root = copied(original.folder, tmp_path / "store")
        for damage in blobs:
            damage.do(root)
        source = Failing(backup, after, RegistryError("it does not answer"))
        report = repair(str(root), source)
        assert len(report.repaired) == after and errors(report)
        assert errors(repair(str(root), backup)) == []
        assert facts(ModelStore(root)) == original.facts


def test_nothing_is_taken_from_a_place_that_is_damaged_or_another_store(
    original: Original, tmp_path: Path
) -> None:
    other = ModelStore(tmp_path / "other", create=True)
    publish(other, "a/t", 60)
    publish(other, "mine", 61)
    document = Path(other.url) / "refs/tasks/a%2Ft"
    for damage in [d for d in original.damages if d.kind in ("missing", "flipped")][::9]:
        root = copied(original.folder, tmp_path / "store")
        damage.do(root)
        worse = copied(root, tmp_path / "worse")  # the very same damage
        before = len(errors(repair(str(copied(root, tmp_path / "alone")))))
        for url in (other.url, str(worse)):
            report = repair(str(root), StoreSource(url))
            assert len(errors(report)) <= before
            assert "mine" not in ModelStore(root).tasks()
    assert document.exists()


def test_a_document_that_is_lost_twice_comes_from_the_backup(
    original: Original, tmp_path: Path
) -> None:
    for key in ("tasks/a%2Ft", "agents/agent", "pins/keep"):
        root = copied(original.folder, tmp_path / "store")
        (root / "refs" / key).unlink()
        (root / "copies" / key).unlink()
        report = repair(str(root), StoreSource(str(original.folder)))
        assert errors(report) == [] and "since the backup" in report.problems[-1].message
        assert facts(ModelStore(root)) == original.facts


def test_an_older_backup_takes_nothing_back(original: Original, tmp_path: Path) -> None:
    backup = copied(original.folder, tmp_path / "backup")
    root = copied(original.folder, tmp_path / "store")
    store = ModelStore(root)
    publish(store, "a/t", 71)
    store.alias("b", "new", 2)
    after = facts(store)
    (root / "refs/tasks/b").unlink()
    shutil.copy(backup / "refs/tasks/a%2Ft", root / "refs/tasks/a%2Ft")
    assert errors(repair(str(root), StoreSource(str(backup)))) == []
    assert facts(ModelStore(root)) == after


class Killed(BaseException):
    """As by SIGKILL, at a call of the storage."""


def test_a_repair_may_be_killed_anywhere(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [d for d in original.damages if d.kind in ("missing", "flipped", "put back")][::11]
    left = [0]

    def counted(method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return method(*arguments)

        return call

    for name in ("replace", "mend", "create", "settle", "remove"):
        monkeypatch.setattr(LocalStorage, name, counted(getattr(LocalStorage, name)))
    for number in range(1, 40):
        root = copied(original.folder, tmp_path / "store")
        for damage in chosen:
            damage.do(root)
        left[0] = number
        try:
            repair(str(root), StoreSource(str(original.folder)))
        except Killed:
            left[0] = 0
            assert errors(repair(str(root), StoreSource(str(original.folder)))) == []
            assert facts(ModelStore(root)) == original.facts
        else:
            assert number > 5
            return
    raise AssertionError("it makes more changes than there can be")


@pytest.mark.parametrize("every", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_a_repair_runs_beside_publishers_and_a_gc(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    backup = StoreSource(str(original.folder))
    chosen = [d for d in original.damages if d.kind in ("missing", "flipped", "put back")][::11]
    calls = Overtaken(monkeypatch)

    def others(root: Path) -> None:
        store = ModelStore(root)
        publish(store, "other", 80)
        for change in (
            lambda: publish(store, "a/t", 81, labels=("another",)),
            lambda: publish(store, "b", 5),  # needs blobs that may be damaged
            lambda: collect_garbage(store, grace_s=0),
        ):
            with suppress(StoreError):  # what is damaged is refused
                change()

    number = 1
    while True:
        root = copied(original.folder, tmp_path / "store")
        for damage in chosen:
            damage.do(root)
        calls.overtake(number, lambda root=root: others(root))
        repair(str(root), backup)
        if not calls.overtaken:
            break
        assert errors(repair(str(root), backup)) == [], number
        store = ModelStore(root)
        assert verify_store(store) == [] and store.resolve("other").version == 1
        for task in ("a/t", "b"):
            assert (
                ModelStore(original.folder).versions(task).items() <= store.versions(task).items()
            )
        number += every
    assert number > 100


@pytest.mark.parametrize("every", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_objects_are_repaired_as_files_are(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    backup = StoreSource(str(original.folder))
    monkeypatch.setattr(Clients, "of", functools.cache(Clients.of))
    with memory_s3() as s3:
        for name, value in {**s3.environment, "MUNET_CACHE": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        whole = {f"store/{name}": (data, 0.0) for name, data in contents(original.folder).items()}
        for damage in one_in(every, original.damages):
            s3.objects = dict(whole)
            key = f"store/{damage.name}"
            if damage.content is None:
                del s3.objects[key]
            else:
                s3.objects[key] = damage.content, 0.0
            s3.asked.clear()
            assert errors(repair("s3://bucket/store", backup)) == [], str(damage)
            assert facts(ModelStore("s3://bucket/store")) == original.facts, str(damage)
            assert not any(request.method == "POST" for request in s3.asked)  # nothing is deleted


def test_the_command(original: Original, tmp_path: Path) -> None:
    root = copied(original.folder, tmp_path / "store")
    (root / "refs/tasks/b").unlink()
    run = CliRunner().invoke
    result = run(app, ["--store", str(root)])
    assert result.exit_code == 1 and "refs/tasks/b" in result.output
    result = run(app, ["--store", str(root), "--repair"])
    assert result.exit_code == 0 and result.output.startswith("repaired:")
    assert "0 errors, 0 warnings" in result.output
    assert all(len(line) <= 80 or " " not in line.strip() for line in result.output.splitlines())
    result = run(app, ["--store", str(root), "--from", str(root)])
    assert isinstance(result.exception, StoreError)
