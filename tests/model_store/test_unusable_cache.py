"""A cache only saves work: where it cannot be used, blobs are read without it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_store.blobs import digest_of
from model_store.errors import CorruptBlob
from model_store.files.cache import FOLDER, BlobCache
from model_store.files.protocol import TooLarge
from tests.model_store.small_disks import PAGE, fill, small_disk

BLOB = os.urandom(5 * PAGE)
NAME = digest_of(BLOB)[7:]


class Origin:
    """Where blobs come from: writes them as an object store does, in parts."""

    def __init__(self, data: bytes = BLOB) -> None:
        self.data = data
        self.asked = 0

    def fetch(self, file: Any) -> None:
        self.asked += 1
        file.truncate(len(self.data))
        for start in range(0, len(self.data), PAGE):
            os.pwrite(file.fileno(), self.data[start : start + PAGE], start)


def _file_in_its_place(folder: Path) -> Path:
    (folder / "cache").write_text("mine")
    return folder / "cache"


def _file_in_the_place_of_its_folder(folder: Path) -> Path:
    (folder / FOLDER).write_text("mine")
    return folder


UNUSABLE: dict[str, Callable[[Path], Path]] = {
    "device": lambda _: Path(os.devnull),
    "proc": lambda _: Path("/proc/munet"),
    "file": _file_in_its_place,
    "file-of-that-name": _file_in_the_place_of_its_folder,
    "long-name": lambda folder: folder / ("n" * 300),
    "loop": lambda folder: _loop(folder / "loop"),
}


def _loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


@pytest.mark.parametrize("place", UNUSABLE.values(), ids=list(UNUSABLE))
def test_blobs_are_read_without_it_and_one_warning_says_so(
    place: Callable[[Path], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, origin = BlobCache(place(tmp_path)), Origin()
    for count in (1, 2, 3):
        assert bytes(cache.load(NAME, len(BLOB), origin.fetch)) == BLOB
        assert origin.asked == count
    assert caplog.text.count("event=cache_not_used") == 1
    assert "MUNET_CACHE" in caplog.text


def test_a_disk_that_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", 16 * PAGE) as disk:
        cache, origin = BlobCache(disk), Origin()
        filler = fill(disk)
        assert bytes(cache.load(NAME, None, origin.fetch)) == BLOB
        assert caplog.text.count("event=cache_not_used") == 1
        filler.unlink()  # there is room again: it is used again
        assert bytes(cache.load(NAME, None, origin.fetch)) == BLOB
        asked = origin.asked
        assert bytes(cache.load(NAME, None, origin.fetch)) == BLOB
        assert origin.asked == asked


def test_what_comes_without_it_is_verified_and_bounded() -> None:
    cache = BlobCache(Path(os.devnull))
    with pytest.raises(CorruptBlob):
        cache.load(NAME, None, Origin(BLOB[:-1] + b"x").fetch)
    with pytest.raises(TooLarge):
        cache.load(NAME, len(BLOB) - 1, Origin().fetch)


def test_a_failure_of_the_store_is_the_stores(tmp_path: Path) -> None:
    def fetch(file: Any) -> None:
        raise CorruptBlob("no such object")

    for place in (tmp_path, Path(os.devnull)):
        with pytest.raises(CorruptBlob, match="no such object"):
            BlobCache(place).load(NAME, None, fetch)


def test_without_a_limit_it_leaves_room_for_others(tmp_path: Path) -> None:
    """On disks of every size."""
    for pages in (40, 100):
        with small_disk(tmp_path / f"disk{pages}", pages * PAGE) as disk:
            cache = BlobCache(disk)
            for number in range(pages):
                data = bytes([number]) * (2 * PAGE)
                cache.load(digest_of(data)[7:], None, Origin(data).fetch)
            found = os.statvfs(disk)
            kept = [file for file in (disk / FOLDER).iterdir() if len(file.name) == 64]
            assert found.f_bavail >= 0.4 * found.f_blocks
            assert 2 * len(kept) >= 0.4 * pages


def test_what_a_killed_download_left_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / ("~" + "0" * 64)).write_bytes(b"a part")
    BlobCache(tmp_path, None).load(NAME, None, Origin().fetch)
    assert {file.name for file in folder.iterdir()} == {NAME, "lock"}


def test_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("MUNET_CACHE", "MUNET_CACHE_BYTES", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert bytes(BlobCache.from_environment().load(NAME, None, Origin().fetch)) == BLOB
    assert "event=cache_not_used" in caplog.text


def test_the_folder_unless_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, caches = tmp_path / "home", tmp_path / "caches"
    for name in ("MUNET_CACHE", "MUNET_CACHE_BYTES", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: home)
    for expected in (home / ".cache" / "munet", caches / "munet"):
        BlobCache.from_environment().load(NAME, None, Origin().fetch)
        assert (expected / FOLDER / NAME).read_bytes() == BLOB
        monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
