"""Every single fault of every file of a small store is found, or harmless by the format's rules.

`verify` has to name the file, and a blob's digest. A reader has to give what it gave before, or
raise a DamagedStore that names what it met; it must never give anything else. What is harmless:

- `lock`: only the system's lock on it counts, and writers make it again.
- `lock.gc`, `reserve`: nobody reads what they hold.
- `refs/changes`, `gc`: they save work; without them everything is looked at.

With the slow tests every byte is every one, else one in `every`, the first among them.
"""

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store import (
    DamagedStore,
    ModelStore,
    StoreNotFound,
    UnknownFormat,
    UnknownTask,
    encode,
)
from model_store.files.ballast import SIZE
from model_store.manifest import Manifest
from model_store.upkeep import Problem, verify_store
from tests.model_store.samples import new_store, path

HARMLESS = {"lock", "lock.gc", "reserve", "gc", "refs/changes"}
MARKER = "munet-store"
FOLDERS = ("", "blobs", "blobs/sha256", "refs")
FLIPS = (1, 0x80)
Reader = Callable[[ModelStore], Any]
one_byte_in = pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])


@dataclass
class Sample:
    """A store with what its files hold and what its readers give while it is sound."""

    root: Path
    files: dict[str, bytes]
    readers: dict[str, Reader]
    before: dict[str, Any] = field(default_factory=dict)
    reach: dict[str, list[str]] = field(default_factory=dict)  # file -> readers that meet it

    def opened(self) -> ModelStore:
        """The store, opened afresh: nothing is remembered from before the fault."""
        return ModelStore(self.root)

    def blobs(self) -> list[str]:
        return [name for name in self.files if name.startswith("blobs/")]

    def refs(self) -> list[str]:
        return [name for name in self.files if name.startswith("refs/") and name not in HARMLESS]

    def copies(self) -> list[str]:
        return [name for name in self.files if name.startswith("copies/")]

    @contextmanager
    def holding(self, changes: dict[str, bytes | None]) -> Iterator[None]:
        """The store with these files holding other bytes, or missing (None), for a while."""
        try:
            for name, data in changes.items():
                if data is None:
                    (self.root / name).unlink()
                else:
                    overwrite(self.root / name, data)
            yield
        finally:
            for name in changes:
                overwrite(self.root / name, self.files[name])


def overwrite(file: Path, data: bytes) -> None:
    """As write_bytes; three times as fast where the size stays."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.pwrite(descriptor, data, 0)
        if os.fstat(descriptor).st_size != len(data):
            os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def version_reader(task: str, number: int | None) -> Reader:
    """Reads all of a version but the time of its publication."""

    def read(store: ModelStore) -> Any:
        found = store.resolve(task, number)
        return found.version, found.digest, found.path.to_json(), dict(found.sizes)

    return read


def watched(store: ModelStore) -> Any:
    """What a watcher serves: it follows every ref that it is told of."""
    return {task: version_reader(task, number)(store) for task, (number, _) in store.live().items()}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Two tasks that share a component, three versions and an agent's state, in 6 KB."""
    store = new_store(tmp_path_factory.mktemp("bytes"))
    shared, *heads = (store.put(np.full(1, seed, np.float32)) for seed in range(4))
    for task, head in (("a/t", heads[0]), ("a/t", heads[1]), ("b", heads[2])):
        store.publish(path(task, {"embedding": shared, "head": head}, metrics={}, labels=("0",)))
    store.save_agent("g", {"generation": 1}, [heads[0]])
    readers: dict[str, Reader] = {
        f"{task} v{number}": version_reader(task, number)
        for task, number in (("a/t", 1), ("a/t", 2), ("b", 1))
    }
    for digest in (shared, *heads):
        readers[digest] = lambda store, digest=digest: encode(store.component(digest))
    readers["agent"] = lambda store: store.load_agent("g")
    readers |= {f"{task} live": version_reader(task, None) for task in ("a/t", "b")}
    readers["watcher"] = watched
    files = {
        file.relative_to(Path(store.url)).as_posix(): file.read_bytes()
        for file in sorted(Path(store.url).rglob("*"))
        if file.is_file()
    }
    made = Sample(Path(store.url), files, readers)
    assert verify_store(store) == [] and 5000 < sum(map(len, files.values())) - SIZE < 12000
    made.before = {name: read(store) for name, read in readers.items()}
    for name in files.keys() - {MARKER}:
        with made.holding({name: b"?"}):
            made.reach[name] = [reader for reader in readers if meets(made, reader)]
    return made


def meets(sample: Sample, reader: str) -> bool:
    """Whether a reader does not give what it gave before."""
    try:
        return sample.readers[reader](sample.opened()) != sample.before[reader]
    except DamagedStore:
        return True


def checked(sample: Sample) -> list[str]:
    """Blobs, documents and their copies: all that must not change unnoticed."""
    names = sample.blobs() + sample.refs() + sample.copies()
    assert set(names) == set(sample.files) - HARMLESS - {MARKER}
    return names


def require_named(sample: Sample, name: str, message: str, content: bytes = b"") -> None:
    """The message tells which file: a blob by path and digest, a ref by path or what it names."""
    file = str(sample.root / name)
    if name.startswith("blobs/"):
        assert file in message and f"sha256:{Path(name).name}" in message, message
    else:
        assert file in message or content.decode("latin1").strip() in message, message


def require_read_or_refused(
    sample: Sample, name: str, readers: Iterable[str], content: bytes = b""
) -> int:
    """Each reader gives what it gave before or refuses, naming the file; how many refused."""
    refused = 0
    for reader in readers:
        try:
            found = sample.readers[reader](sample.opened())
        except DamagedStore as error:
            require_named(sample, name, str(error), content)
            refused += 1
            continue
        if reader == "watcher":  # logs what it cannot read, and goes on with the other tasks
            assert found.items() <= sample.before[reader].items()
            refused += found != sample.before[reader]
        else:
            assert found == sample.before[reader], (name, reader, content)
    return refused


def errors(sample: Sample) -> list[Problem]:
    return [problem for problem in verify_store(sample.opened()) if problem.severity == "error"]


def require_found(sample: Sample, names: Iterable[str]) -> None:
    """`verify` reports an error of each of these files, by its path and a blob's digest."""
    found = {problem.path: problem.message for problem in errors(sample)}
    for name in names:
        assert str(sample.root / name) in found, name
        if name.startswith("blobs/"):
            require_named(sample, name, found[str(sample.root / name)])


def flipped(data: bytes, position: int, mask: int) -> bytes:
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def test_the_readers_together_meet_every_file_but_configs_and_copies(sample: Sample) -> None:
    unread = {name for name in checked(sample) if not sample.reach[name]}
    store = sample.opened()
    state = store.agent_state("g")
    digests = [
        *store.versions("a/t").values(),
        *store.versions("b").values(),
        state[0] if state else "",
    ]
    manifests = [sample.files[f"blobs/sha256/{digest[7:]}"] for digest in digests]
    configs = {Manifest.from_bytes(data).config.digest[7:] for data in manifests}
    assert len(configs) == 4  # of three versions, and the empty one of the agent
    assert unread == {f"blobs/sha256/{name}" for name in configs} | set(sample.copies())


def flips(data: bytes, every: int) -> list[bytes]:
    return [flipped(data, n, mask) for n in range(0, len(data), every) for mask in FLIPS]


@one_byte_in
def test_a_reader_refuses_every_changed_byte_of_a_blob(sample: Sample, every: int) -> None:
    for name in sample.blobs():
        for number, content in enumerate(flips(sample.files[name], every)):
            with sample.holding({name: content}):
                met = sample.reach[name] if number % 101 == 0 else sample.reach[name][:1]
                assert require_read_or_refused(sample, name, met) == len(met)


def in_all_at_once(
    sample: Sample, faults: Mapping[str, Iterable[bytes]], every: int = 1
) -> Iterator[None]:
    """Each file's next fault, in all of them at once: one run of verify takes longest."""
    for changes in itertools.islice(itertools.zip_longest(*faults.values()), 0, None, every):
        pairs = zip(faults, changes, strict=True)
        present: dict[str, bytes | None] = {name: data for name, data in pairs if data is not None}
        with sample.holding(present):
            require_found(sample, present)
        yield


@one_byte_in
def test_verify_finds_every_changed_byte_of_a_blob(sample: Sample, every: int) -> None:
    faults = {name: flips(sample.files[name], every) for name in sample.blobs()}
    assert sum(1 for _ in in_all_at_once(sample, faults)) == max(map(len, faults.values()))


def test_one_changed_byte_is_blamed_on_no_other_file(sample: Sample) -> None:
    for name in sample.blobs():
        digest = f"sha256:{Path(name).name}"
        with sample.holding({name: flipped(sample.files[name], -1 % len(sample.files[name]), 1)}):
            require_found(sample, [name])
            assert all(digest in problem.message for problem in errors(sample))
            require_read_or_refused(sample, name, sample.readers)


@one_byte_in
def test_every_truncation_of_a_blob(sample: Sample, every: int) -> None:
    for name in sample.blobs():
        for size in range(0, len(sample.files[name]), every):
            with sample.holding({name: sample.files[name][:size]}):
                met = sample.reach[name][:1]
                assert require_read_or_refused(sample, name, met) == len(met)
    data = {name: sample.files[name] for name in sample.blobs()}
    cuts = {name: [d[:size] for size in range(len(d))] for name, d in data.items()}
    assert sum(1 for _ in in_all_at_once(sample, cuts, 3 * every)) > 300 / every


def changes_of_a_ref(data: bytes, every: int) -> Iterator[bytes]:
    for position in range(0, len(data), every):
        for value in {data[position] ^ mask for mask in FLIPS} | {0x0A, 0}:
            if value != data[position]:
                yield data[:position] + bytes([value]) + data[position + 1 :]
        yield data[:position]
    yield data + b"\n"
    yield data * 2
    yield b"\n" + data


@one_byte_in
def test_every_changed_byte_and_every_truncation_of_a_ref(
    sample: Sample, caplog: pytest.LogCaptureFixture, every: int
) -> None:
    caplog.set_level(logging.CRITICAL)  # the watcher logs each
    faults = {name: list(changes_of_a_ref(sample.files[name], every)) for name in sample.refs()}
    copies = {name: list(changes_of_a_ref(sample.files[name], every)) for name in sample.copies()}
    for name, changes in faults.items():
        for content in changes:
            with sample.holding({name: content}):
                assert require_read_or_refused(sample, name, sample.reach[name], content) > 0
    assert sum(1 for _ in in_all_at_once(sample, faults, every=3)) > 300 / every
    assert sum(1 for _ in in_all_at_once(sample, copies, every=7)) > 100 / every


def test_a_watcher_names_the_task_that_it_cannot_read(
    sample: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    with sample.holding({"refs/tasks/a%2Ft": b"?"}):
        assert list(sample.opened().live()) == ["b"]
    assert "a/t" in caplog.text and str(sample.root / "refs/tasks/a%2Ft") in caplog.text


def test_every_two_files_swapped(sample: Sample, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    for first, second in itertools.combinations(checked(sample), 2):
        one, other = sample.files[first], sample.files[second]
        if not first.startswith("blobs/") and not {first, second} <= {*sample.refs()}:
            continue
        with sample.holding({first: other, second: one}):
            require_found(sample, [first, second])
            for name in (first, second):
                for reader in sample.reach[name]:
                    assert meets(sample, reader), (first, second, reader)


def test_every_blob_missing(sample: Sample) -> None:
    for name in sample.blobs():
        with sample.holding({name: None}):
            message = "; ".join(problem.message for problem in errors(sample))
            require_named(sample, name, message)  # a manifest's is that of the refs to it
            refused = require_read_or_refused(sample, name, sample.readers)
            assert refused == len(sample.reach[name])


def test_every_document_missing(sample: Sample) -> None:
    for name in sample.refs():
        with sample.holding({name: None}):
            assert errors(sample)
    with sample.holding({"refs/tasks/a%2Ft": None}):
        with pytest.raises(UnknownTask, match="has no task"):
            sample.opened().resolve("a/t")
        assert list(sample.opened().live()) == ["b"]
        require_found(sample, ["refs/tasks/a%2Ft"])
    with sample.holding({"refs/agents/g": None}):
        require_found(sample, ["refs/agents/g"])


def test_the_marker(sample: Sample) -> None:
    for content in (None, b"", b"{}", b'{"format": 3, "features": [], "id": "a"}', b"?" * 100):
        with (
            sample.holding({MARKER: content}),
            pytest.raises((StoreNotFound, UnknownFormat, DamagedStore)),
        ):
            sample.opened()


def test_every_byte_of_the_id(sample: Sample) -> None:
    """By which a backup knows the store."""
    marker = sample.files[MARKER]
    start = marker.index(b'"id"') + len(b'"id": "')
    for position in range(start, start + 37):
        for content in (flipped(marker, position, 1), marker[:position] + marker[position + 1 :]):
            with sample.holding({MARKER: content}):
                assert [MARKER in problem.path for problem in errors(sample)] == [True]


@one_byte_in
def test_harmless_files_missing_or_full_of_anything(sample: Sample, every: int) -> None:
    present = sorted(HARMLESS & set(sample.files))
    assert "lock" in present
    for name in present:
        data = sample.files[name]
        changed = b"" if name == "reserve" else data  # of a reserve there are too many
        cuts = [data[:size] for size in range(0, len(changed), 5 * every)]
        for content in (None, b"?", b"\0" * 5000, data * 2, *flips(changed, every), *cuts):
            with sample.holding({name: content}):
                assert errors(sample) == []
                assert require_read_or_refused(sample, name, sample.readers) == 0


@pytest.mark.parametrize("folder", [*FOLDERS, "tmp"])
@pytest.mark.parametrize("extra", ["extra.x", ".hidden", "v03", "LIVE", "%2e%2e", "a\nb"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_extra_files_are_a_warning_and_nothing_else(
    sample: Sample, folder: str, extra: str, as_folder: bool
) -> None:
    file = sample.root / folder / extra
    file.mkdir() if as_folder else file.write_bytes(b"v1\n")
    try:
        found = [(problem.severity, problem.path) for problem in verify_store(sample.opened())]
        assert found == [("warning", str(file))] or (as_folder and not found)
        assert require_read_or_refused(sample, "", sample.readers) == 0
    finally:
        file.rmdir() if as_folder else file.unlink()


@pytest.mark.parametrize("data", [b"", b"x"])
def test_an_extra_blob_under_a_digest_that_is_not_its_own(sample: Sample, data: bytes) -> None:
    name = f"blobs/sha256/{'0' * 64}"
    (sample.root / name).write_bytes(data)
    try:
        require_found(sample, [name])
        assert require_read_or_refused(sample, name, sample.readers) == 0
        with pytest.raises(DamagedStore, match="0" * 64):
            sample.opened().component("sha256:" + "0" * 64)
    finally:
        (sample.root / name).unlink()
