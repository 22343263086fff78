"""Where no copy is made, and nothing is changed."""

import json
from pathlib import Path

import obstore
import pytest

from model_store import ExchangeError, ModelStore, StoreNotFound, UnknownFormat
from model_store.files.objects import ObjectStorage
from model_store.upkeep import verify_store
from model_store.upkeep.backup import backup
from tests.model_store.object_stores import S3Server
from tests.model_store.places import Place
from tests.model_store.samples import new_store, publish


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
