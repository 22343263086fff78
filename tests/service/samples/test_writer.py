"""Files of samples: whole or not there, bounded, and never waited for."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from pyarrow import parquet as pq

from model_store.errors import StorageError
from service.samples import writer as writers
from service.samples.places import NAME, FolderPlace, open_place
from service.samples.writer import FAILED, KEPT, MOST_BYTES, NO_ROOM, Writer, name_at
from tests.model_store.object_stores import S3Server, dying_with_parent
from tests.service.samples.kept import rows, sample
from tests.service.servers import ROOT
from tests.service.waiting import PATIENCE_S, eventually

GIB = 2**30


class Disk:
    """A folder, which may be slow or full."""

    def __init__(self, folder: Path) -> None:
        self.folder = FolderPlace(folder)
        self.error: Exception | None = None
        self.free, self.begun = threading.Event(), threading.Event()
        self.free.set()

    def sizes(self) -> Mapping[str, int]:
        return self.folder.sizes()

    def remove(self, name: str) -> None:
        self.folder.remove(name)

    def write(self, name: str, data: bytes) -> None:
        self.begun.set()
        self.free.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        self.folder.write(name, data)


Begun = Callable[..., tuple[Writer, Counter[str]]]


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Begun]:
    """Writers to a place, by default to the folder `kept`, and what they count."""
    made: list[Writer] = []

    def begin(place: object = None, most: int = GIB, **how: float) -> tuple[Writer, Counter[str]]:
        counts = Counter[str]()
        where = place or FolderPlace(tmp_path / "kept")
        writer = Writer(where, most, lambda name, n: counts.update({name: n}), **how)  # pyright: ignore[reportArgumentType]
        writer.start()
        made.append(writer)
        return writer, counts

    yield begin
    for writer in made:
        writer.stop()


def test_what_waits_is_written_at_the_end(begun: Begun, tmp_path: Path) -> None:
    writer, counts = begun()
    for number in range(3):
        writer.offer(sample(b"%d" % number))
    writer.stop()
    assert [row["image"]["bytes"] for row in rows(tmp_path / "kept")] == [b"0", b"1", b"2"]
    assert counts == {KEPT: 3}
    (file,) = (tmp_path / "kept").iterdir()
    assert (file.parent.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    writer.offer(sample())
    assert counts == {KEPT: 3, NO_ROOM: 1}


def test_a_file_is_written_after_a_while_and_when_enough_has_come(
    begun: Begun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, _ = begun(write_every_s=0.01)
    writer.offer(sample())
    eventually(lambda: rows(tmp_path / "kept"))
    monkeypatch.setattr(writers, "FILE_BYTES", 10_000)
    other, _ = begun(FolderPlace(tmp_path / "other"))
    for _ in range(10):
        other.offer(sample(bytes(1000)))
    eventually(lambda: rows(tmp_path / "other"))


def test_a_slow_disk_costs_samples_and_nobody_waits(begun: Begun, tmp_path: Path) -> None:
    disk = Disk(tmp_path / "kept")
    disk.free.clear()
    writer, counts = begun(disk, write_every_s=0.01)
    writer.offer(sample())
    assert disk.begun.wait(PATIENCE_S)
    picture = bytes(MOST_BYTES // 4)
    for _ in range(10):  # each returns although the disk does not
        writer.offer(sample(picture))
    assert counts == {NO_ROOM: 7}
    disk.free.set()
    writer.stop()
    assert counts == {NO_ROOM: 7, KEPT: 4}


def test_a_picture_that_never_fits_is_dropped(begun: Begun) -> None:
    writer, counts = begun()
    writer.offer(sample(bytes(MOST_BYTES)))
    assert counts == {NO_ROOM: 1}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), StorageError("no such bucket")])
def test_a_full_disk_costs_samples_is_told_once_and_ends(
    begun: Begun, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    caplog.set_level(logging.WARNING)
    disk = Disk(tmp_path / "kept")
    disk.error = error
    writer, counts = begun(disk, write_every_s=0.01)
    for expected in (1, 2):
        writer.offer(sample())
        eventually(lambda n=expected: counts[FAILED] == n)
    assert caplog.text.count("event=samples_not_kept") == 1
    disk.error = None
    writer.offer(sample(b"later"))
    eventually(lambda: counts[KEPT])
    assert [row["image"]["bytes"] for row in rows(tmp_path / "kept")] == [b"later"]
    assert "event=samples_kept_again" in caplog.text


def test_the_oldest_files_go_and_no_others(begun: Begun, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    old, older = name_at(1e9), name_at(5e8)
    for name in (old, older, "samples-of-mine.parquet", "notes.txt", "~notes"):
        (folder / name).write_bytes(bytes(10_000))
    writer, counts = begun(most=20_000)
    writer.offer(sample())
    writer.stop()
    assert counts == {KEPT: 1}
    left = {path.name for path in folder.iterdir()}
    assert not (folder / older).exists() and (folder / old).exists()
    assert left >= {"samples-of-mine.parquet", "notes.txt", "~notes"}
    assert sum(path.stat().st_size for path in folder.glob("samples-[12]*")) <= 20_000


def test_several_gateways_share_a_folder(begun: Begun, tmp_path: Path) -> None:
    several = [begun()[0] for _ in range(4)]
    for number, writer in enumerate(several):
        writer.offer(sample(b"%d" % number))
    for writer in several:
        writer.stop()
    assert len(list((tmp_path / "kept").iterdir())) == 4
    assert {row["image"]["bytes"] for row in rows(tmp_path / "kept")} == {b"0", b"1", b"2", b"3"}


def test_names_are_in_the_order_of_age() -> None:
    names = [name_at(now) for now in (5e8, 1e9, 1.7e9, 1.7e9 + 0.001, 1.7e9 + 1)]
    assert names == sorted(names)
    assert all(NAME.fullmatch(name) for name in names)


ENDLESS = """
import resource, sys, time
from pathlib import Path
from service.samples import writer as writers
from service.samples.places import FolderPlace
from tests.service.samples.kept import sample
writers.FILE_BYTES = 100_000
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
told = lambda outcome, n: print(outcome, flush=True)
writer = writers.Writer(FolderPlace(Path(sys.argv[1])), 2**30, told)
writer.start()
while True:
    writer.offer(sample(bytes(50_000)))
    time.sleep(0.001)
"""


def test_a_killed_process_leaves_only_whole_files(begun: Begun, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    command = [sys.executable, "-c", ENDLESS, str(folder)]
    for _ in range(2):
        process = subprocess.Popen(dying_with_parent(command), cwd=ROOT, stdout=subprocess.DEVNULL)
        there = len(list(folder.glob("samples-*")))
        eventually(lambda n=there: len(list(folder.glob("samples-*"))) > n + 2)
        process.kill()
        process.wait()
    for file in folder.glob("*.parquet"):
        assert pq.read_table(file).num_rows
    (folder / "~1-0123456789abcdef").write_bytes(b"PAR1 and no more")  # as if killed in between
    writer, counts = begun()
    writer.offer(sample())
    writer.stop()
    assert counts[KEPT] == 1
    assert all(NAME.fullmatch(path.name) for path in folder.iterdir())


def test_a_file_that_the_disk_cuts_short_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    command = [sys.executable, "-c", ENDLESS, str(folder), "1000"]
    with subprocess.Popen(dying_with_parent(command), cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        outcomes = iter(process.stdout.readline, b"")
        assert b"failed\n" in outcomes
        process.kill()
    assert not list(folder.glob("*.parquet"))


def test_samples_in_a_bucket(
    begun: Begun, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    prefix = tmp_path.name
    others = {"notes.txt", f"deeper/{name_at(5e8)}"}
    for name in (name_at(5e8), *others):
        s3.client(prefix).put(name, bytes(10_000))
    writer, counts = begun(open_place(s3.url(prefix)), 10_000)
    writer.offer(sample())
    writer.stop()
    assert counts == {KEPT: 1}
    (name,) = set(s3.paths(prefix)) - others
    assert NAME.fullmatch(name) and name > name_at(5e8)
    (tmp_path / name).write_bytes(bytes(s3.client(prefix).get(name).bytes()))
    assert [row["task"] for row in rows(tmp_path)] == ["photos"]


def test_a_bucket_that_is_not_there_costs_samples(
    begun: Begun, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    writer, counts = begun(open_place("s3://no-such-bucket/samples"))
    writer.offer(sample())
    writer.stop()
    eventually(lambda: counts[FAILED] == 1)
