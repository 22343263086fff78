"""Data sets of the Hub: folders in its layout, and what the library `datasets` loads.

The library is an extra. Where it is not installed, a stand-in of its interface is loaded instead.
"""

import sys
from types import SimpleNamespace

import pyarrow as pa
import pytest

from evolution.data.adding import Request, add
from evolution.data.errors import DataError
from evolution.data.stored import classes_of
from tests.evolution.data.drawn import SHAPES, class_folders, encoded, picture
from tests.evolution.data.hubs import as_hub

LAYOUTS = ["data", "", "folders of splits", "plain_text", "default/folders of splits"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_the_split_is_in_the_name_of_a_file_or_of_its_folder(prefix, layout, added, tmp_path):
    parts = {"train": 0, "validation": 20, "test": 40}
    for split, first in parts.items():
        hub = as_hub(class_folders(tmp_path / split / "photos", 4, first=first), split)
        for i, file in enumerate(sorted(hub.rglob("*.parquet"))):
            name = f"{split}/000{i}.parquet" if "folders of splits" in layout else file.name
            to = tmp_path / "hub" / layout.replace("folders of splits", "") / name
            to.parent.mkdir(parents=True, exist_ok=True)
            file.rename(to)
    (tmp_path / "hub/README.md").write_text("---\nlicense: mit\n---\n")
    card = added("photos", f"{prefix}{tmp_path / 'hub'}")
    assert card.made == []
    assert {split: sum(n) for split, n in card.check.counts.items()} == dict.fromkeys(parts, 12)


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_of_several_configurations_one_is_to_be_named(prefix, added, tmp_path):
    for name in ("fine", "coarse"):
        hub = as_hub(class_folders(tmp_path / f"{name} photos", 4), "train")
        (hub / "data").rename(hub / name)
    with pytest.raises(DataError, match=r"configurations coarse, fine; .*: /.*/hub/coarse$"):
        added("photos", f"{prefix}{tmp_path / 'hub'}")
    assert added("photos", f"{prefix}{tmp_path / 'hub/fine'}").check.classes == 3


def test_a_name_needs_the_library_and_says_so(added, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for place in ("hf:nobody/nothing", f"hf:{class_folders(tmp_path / 'photos', 4)}"):
        with pytest.raises(DataError, match=r"(?s)or the library `datasets`.*pip install") as error:
            added("photos", place)
        assert len(str(error.value).splitlines()) <= 5


class Image:
    """The kind of a column of pictures."""


class ClassLabel:
    """The kind of a column of classes."""

    names = sorted(SHAPES)


class Rows(list[dict]):
    """A split as the library gives it."""

    features = {"picture": Image(), "kind": ClassLabel(), "note": None}  # noqa: RUF012
    split = None

    def with_format(self, form):
        assert form == "arrow"
        return self

    def iter(self, batch_size):
        for start in range(0, len(self), batch_size):
            yield pa.Table.from_pylist(self[start : start + batch_size])


def rows(first: int, each: int = 6) -> Rows:
    """Pictures of each class."""
    return Rows(
        {"picture": {"bytes": encoded(picture(n, i)), "path": None}, "kind": k, "note": "x"}
        for i in range(first, first + each)
        for k, n in enumerate(ClassLabel.names)
    )


@pytest.fixture
def library(monkeypatch):
    """A stand-in for the library; what it was asked for."""
    asked = []

    def load_dataset(name, **how):
        asked.append((name, how))
        if name == "no/such":
            raise FileNotFoundError("Couldn't find 'no/such' on the Hub")
        return {"train": rows(0), "test": rows(20), "unsupervised": rows(40)}

    module = SimpleNamespace(Image=Image, ClassLabel=ClassLabel, load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)
    table = SimpleNamespace(embed_table_storage=lambda batch: batch)
    monkeypatch.setitem(sys.modules, "datasets.table", table)
    return asked


def test_a_name_is_loaded_at_its_revision(library, place):
    card, classes, _, notes = add(Request("photos", "hf:some/shapes@v1"), place)
    assert library == [("some/shapes", {"revision": "v1"})]
    assert classes == tuple(sorted(SHAPES)) and card.made == ["validation"]
    assert sum(card.check.counts["test"]) == 18
    assert notes == ["left out, as they are no splits known here: unsupervised"]
    assert card.source == "hf:some/shapes@v1"


def test_what_the_library_cannot_load_is_told(library, added):
    with pytest.raises(DataError, match=r"datasets cannot load it: Couldn't find 'no/such'"):
        added("photos", "hf:no/such")
    assert library == [("no/such", {"revision": None})]


def test_the_library_itself_opens_a_set_and_gives_what_it_holds(place, added, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = class_folders(tmp_path / "photos", 6)
    first = added("photos", folder)
    opened = datasets.load_dataset(str(place.root / "photos"), cache_dir=str(tmp_path / "cache"))
    assert opened["train"].features["label"].names == list(classes_of(place, first))
    assert {split: len(data) for split, data in opened.items()} == {
        split: sum(counts) for split, counts in first.check.counts.items()
    }
    opened.save_to_disk(str(tmp_path / "saved"))
    again = added("again", f"hf:{tmp_path / 'saved'}")
    assert again.fingerprint == first.fingerprint
    assert added("folders", f"hf:{folder}").fingerprint == first.fingerprint
