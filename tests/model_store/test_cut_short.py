"""A file that somebody cuts, fills or replaces while it is read is an error, never a signal."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_store import CorruptBlob, Digest, Malformed, ModelStore, encode
from model_store.exchange.oci_layout import LayoutPlace
from model_store.manifest import COMPONENT, Descriptor
from tests.model_store.places import Place
from tests.model_store.samples import arrays, blob_file, new_store

TOP = Path(__file__).parents[2]
# The file is cut when its size is known and its digest is about to be computed.
CUT_AT_THE_DIGEST = """
import os, sys
from model_store import ModelStore, blobs
from tests.model_store.samples import blob_file

store, digest = ModelStore(sys.argv[1]), sys.argv[2]
file, real = blob_file(store, digest), blobs.digest_of

def cut_first(data):
    if file.exists():
        os.truncate(file, 0)
    return real(data)

blobs.digest_of = cut_first
kernel = store.component(digest)["kernel"]
print(kernel.sum())
"""


def shrink(to: Callable[[int], int]) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, to(path.stat().st_size))


def fill(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)


def replace(path: Path) -> None:
    other = path.with_name("~other")
    other.write_bytes(b"other")
    os.replace(other, path)


CHANGES: dict[str, Callable[[Path], None]] = {
    "emptied": shrink(lambda size: 0),
    "halved": shrink(lambda size: size // 2),
    "shorter by a byte": shrink(lambda size: size - 1),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 5000),
    "filled with other bytes": fill,
    "replaced": replace,
    "removed": Path.unlink,
}
STAYS = {"longer", "replaced", "removed"}  # what was opened still has the right bytes in front


def changed_once_measured(
    monkeypatch: pytest.MonkeyPatch, file: Path, change: Callable[[Path], None]
) -> None:
    """The file changes when its size has been asked for and nothing of it read."""
    real, inode = os.fstat, file.stat().st_ino
    looks: list[int] = []

    def measured(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        if found.st_ino == inode:
            looks.append(descriptor)
            if len(looks) == 2:  # the first look asks what kind of file it is
                change(file)
        return found

    monkeypatch.setattr(os, "fstat", measured)


@pytest.mark.parametrize("size", [8, 400])  # kilobytes: below and above what gets its own pages
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_under_a_reader_is_an_error_of_that_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, size: int
) -> None:
    store = new_store(tmp_path)
    tree = arrays(1, size=int((size * 256) ** 0.5))
    digest = store.put(tree)
    file = blob_file(store, digest)
    assert file
    whole = file.read_bytes()
    changed_once_measured(monkeypatch, file, CHANGES[change])
    if change in STAYS:
        np.testing.assert_array_equal(store.component(digest)["kernel"], tree["kernel"])  # pyright: ignore
    else:
        with pytest.raises(CorruptBlob, match=digest) as caught:
            store.component(digest)
        assert str(file) in str(caught.value)
    file.unlink(missing_ok=True)
    file.write_bytes(whole)
    np.testing.assert_array_equal(store.component(digest)["kernel"], tree["kernel"])  # pyright: ignore


def test_a_blob_cut_while_it_is_digested_kills_nobody(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    digest = store.put(arrays(1, size=300))
    done = subprocess.run(
        [sys.executable, "-c", CUT_AT_THE_DIGEST, store.url, digest],
        cwd=TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert float(done.stdout) == pytest.approx(float(arrays(1, size=300)["kernel"].sum()), rel=1e-3)


def test_what_was_read_is_not_touched_by_what_becomes_of_the_file(place: Place) -> None:
    store = place.open(create=True)
    tree = arrays(2, size=300)
    digest = store.put(tree)
    read = store.component(digest)
    hexdigits = digest.removeprefix("sha256:")
    cache = place.environment.get("MUNET_CACHE")
    local = Path(cache) / "munet-blobs" / hexdigits if cache else blob_file(store, digest)
    os.truncate(local, 0)
    np.testing.assert_array_equal(read["kernel"], tree["kernel"])  # pyright: ignore


def test_a_cached_copy_that_is_cut_is_fetched_again(
    s3_store: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_store.open(create=True)
    tree = arrays(3, size=300)
    digest = store.put(tree)
    store.component(digest)
    copy = Path(s3_store.environment["MUNET_CACHE"], "munet-blobs", digest.removeprefix("sha256:"))
    changed_once_measured(monkeypatch, copy, CHANGES["halved"])
    np.testing.assert_array_equal(store.component(digest)["kernel"], tree["kernel"])  # pyright: ignore


def test_a_layout_that_is_cut_while_it_is_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = tmp_path / "layout/blobs/sha256"
    blobs.mkdir(parents=True)
    data = encode(arrays(4, size=300))
    store = new_store(tmp_path)
    digest = Digest(store.put_blob(data))
    file = blobs / digest.removeprefix("sha256:")
    file.write_bytes(data)
    layout = LayoutPlace(tmp_path / "layout")
    changed_once_measured(monkeypatch, file, CHANGES["halved"])
    with pytest.raises(CorruptBlob, match=digest):
        layout.read(Descriptor(COMPONENT, digest, len(data)))


def test_a_component_larger_than_its_reader_expects_is_not_read(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, create=True)
    digest = store.put(arrays(5, size=64))
    file = blob_file(store, digest)
    assert file
    os.truncate(file, 2**40)  # a hole: no disk is that large
    with pytest.raises(Malformed, match=f"{2**40} bytes, limit 20000"):
        store.component(digest, limit=20_000)
