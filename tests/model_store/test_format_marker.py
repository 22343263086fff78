"""A place is a store by its marker: nothing is made without it, nothing removed beyond it."""

import json
from pathlib import Path

import pytest

from model_store import ModelStore, StoreError, StoreNotFound, UnknownFormat
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.samples import arrays, new_store, path, publish


def marked(store: ModelStore, **changes: object) -> None:
    """Change what the marker says."""
    marker = Path(store.url) / "munet-store"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), **changes}))


def test_a_store_with_unknown_features_is_read_and_not_collected(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    publish(store, "t", 1)
    garbage = store.put(arrays(9))
    marked(store, features=["further-refs"])
    opened = ModelStore(store.url)
    assert opened.resolve("t").version == 1 and verify_store(opened) == []
    with pytest.raises(UnknownFormat, match="further-refs"):
        collect_garbage(opened, grace_s=0)
    assert opened.size(garbage)


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    marked(store, format=3)
    with pytest.raises(UnknownFormat, match="format 3, expected 2"):
        ModelStore(store.url)
    with pytest.raises(UnknownFormat, match="format 3, expected 2"):
        ModelStore(store.url, create=True)


def test_no_store_is_made_among_the_files_of_something_else(tmp_path: Path) -> None:
    blob = tmp_path / "blobs/sha256" / ("0" * 64)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"of a store of an earlier format")
    with pytest.raises(UnknownFormat, match="expected an empty folder"):
        ModelStore(tmp_path, create=True)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [blob]


@pytest.mark.parametrize("left", [False, True])
def test_a_store_that_vanishes_is_not_made_again(tmp_path: Path, left: bool) -> None:
    """As when its disk is unmounted; the folder it was mounted on may be there."""
    store = new_store(tmp_path)
    publish(store, "t", 1)
    components = dict(store.resolve("t").path.components)
    root = Path(store.url)
    root.rename(tmp_path / "away")
    if left:
        root.mkdir()
    for change in (
        lambda: store.put(arrays(5)),
        lambda: store.publish(path("t", components, labels=("other",))),
        lambda: store.rollback("t", 1),
        lambda: store.rm("t"),
        lambda: collect_garbage(store, grace_s=0),
        lambda: store.save_agent("a", {}, []),
    ):
        with pytest.raises((StoreError, OSError)):
            change()
    assert not left or list(root.iterdir()) == []
    with pytest.raises(StoreNotFound):
        ModelStore(root)
    if left:
        root.rmdir()
    (tmp_path / "away").rename(root)
    assert publish(store, "t", 2) == 2 and verify_store(ModelStore(root)) == []
