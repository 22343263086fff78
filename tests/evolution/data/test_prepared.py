"""Data sets of TFDS: by name below TFDS_DATA_DIR, in a folder, and by a user's own builder."""

import shutil
import struct
import uuid
from collections import Counter
from typing import Any

import pytest
import tensorflow_datasets as tfds

from evolution.data.adding import Request, add
from evolution.data.errors import DataError
from evolution.data.prepared import builder_class
from evolution.data.preparing import prepared_by
from evolution.data.rows import SPLITS
from evolution.data.stored import Pictures
from evolution.data.tasks import load
from tests.evolution.data.drawn import SHAPES, encoded, picture

BUILDER = '''
"""Shapes."""
import pathlib
import tensorflow_datasets as tfds

class {name}(tfds.core.GeneratorBasedBuilder):
    """Shapes."""
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = tfds.features.FeaturesDict({{
            "photo": tfds.features.Image(), "kind": tfds.features.ClassLabel(names={kinds}),
            "more": tfds.features.Text(),
        }})
        return tfds.core.DatasetInfo(
            builder=self, features=features, supervised_keys=("photo", "kind")
        )

    def _split_generators(self, manager):
        return {{part: self._generate_examples(part) for part in ("train", "test", "extra")}}

    def _generate_examples(self, part):
        for file in sorted(pathlib.Path({folder!r}, part).iterdir()):
            yield file.name, {{"photo": file, "kind": file.name.split("_")[0], "more": "x"}}
'''


@pytest.fixture
def builder(tmp_path):
    """The file of a builder of a name of its own, next to the pictures that it reads."""
    name = f"Shapes{uuid.uuid4().hex}"
    for part, first, each in (("train", 0, 6), ("test", 20, 3), ("extra", 40, 1)):
        (tmp_path / part).mkdir()
        for kind in SHAPES:
            for i in range(first, first + each):
                (tmp_path / part / f"{kind}_{i}.png").write_bytes(encoded(picture(kind, i)))
    code = BUILDER.format(name=name, kinds=list(SHAPES), folder=str(tmp_path))
    (tmp_path / "builder.py").write_text(code)
    return tmp_path / "builder.py"


def as_tfrecords(folder):
    """The same set written as TFRECORD, as TFDS does unless it is told otherwise."""
    found: Any = tfds.builder_from_directory(folder)
    for part in found.info.splits:
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        source = found.as_data_source(split=part, deserialize_method=raw)
        [file] = found.info.splits[part].filepaths
        records = source.__getitems__(range(len(source)))
        with open(str(file).replace("array_record", "tfrecord"), "wb") as out:
            for data in records:
                out.write(struct.pack("<Q", len(data)) + bytes(4) + data + bytes(4))
        file.unlink()
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    return folder


def test_a_users_own_builder_is_run(place, builder):
    card, classes, _, notes = add(Request("shapes", f"tfds:{builder}"), place)
    assert classes == SHAPES and card.made == ["validation"] and card.source == ""
    assert sum(card.check.counts["test"]) == 9 and card.check.pictures == 27
    assert notes == ["left out, as they are no splits known here: extra"]
    parts = [builder.parent / part for part in ("train", "test")]
    came = {file.read_bytes() for part in parts for file in part.iterdir()}
    kept = {d for s in SPLITS for d, _ in Pictures(place, "shapes", card.files[s]).each()}
    assert kept == came, "the files as they are"
    assert [path.name for path in place.root.iterdir()] == ["shapes"]


@pytest.mark.parametrize("written", ["array_record", "tfrecord"])
def test_a_prepared_set_comes_in_by_place_and_by_name(written, added, builder, monkeypatch):
    prepared = builder.parent / "tfds"
    name = prepared_by(builder_class(builder), prepared).name
    folder = prepared / name / "1.2.0"
    if written == "tfrecord":
        as_tfrecords(folder)
    first = added("by-folder", f"tfds:{folder}")
    assert first.check.pictures == 27
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    for place in (folder.parent, name):
        assert added(f"by-{len(str(place))}", f"tfds:{place}").fingerprint == first.fingerprint
    if written == "tfrecord":
        file = next(folder.glob("*-train*"))
        file.write_bytes(file.read_bytes()[:-9])
        with pytest.raises(DataError, match="cut off or too large"):
            added("damaged", f"tfds:{folder}")
    shutil.rmtree(prepared)
    assert len(load("by-folder", ()).train) == 15


BAD = {
    "no builder": (lambda d: d / "none.py", "expected the file of a TFDS builder"),
    "a broken builder": (lambda d: d / "broken.py", "SyntaxError"),
    "no class": (lambda d: d / "empty.py", "expected one class of a builder"),
    "no prepared set": (lambda d: d / "folder", "expected a data set that TFDS prepared"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_data_set_of_tfds_is_told(kind, added, tmp_path):
    (tmp_path / "broken.py").write_text("class")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "folder").mkdir()
    make, message = BAD[kind]
    with pytest.raises(DataError, match=message):
        added("photos", f"tfds:{make(tmp_path)}")


def test_a_builder_may_give_several_labels_a_picture(place, builder):
    names = f"tfds.features.ClassLabel(names={list(SHAPES)})"
    kind = 'file.name.split("_")[0]'
    code = builder.read_text().replace(names, f"tfds.features.Sequence({names})")
    builder.write_text(code.replace(kind, f"[k for k in {SHAPES} if k >= {kind}]"))
    card, classes, _, _ = add(Request("several", f"tfds:{builder}"), place)
    assert card.multi_label and classes == SHAPES
    parts = (Pictures(place, "several", card.files[split]) for split in SPLITS)
    stored = Counter(labels for part in parts for _, labels in part.each())
    assert stored == {(0, 1, 2): 9, (0, 1): 9, (1,): 9}
