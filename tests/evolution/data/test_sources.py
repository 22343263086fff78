"""From every source it is the same set, and its bytes are those that came."""

import base64
import csv
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evolution.data import tables
from evolution.data.adding import Request, add, classes_of
from evolution.data.errors import DataError
from evolution.data.rows import SPLITS
from evolution.data.stored import Pictures
from evolution.data.tables import Columns
from tests.evolution.data.drawn import SHAPES, class_folders, encoded, picture
from tests.evolution.data.hubs import as_hub, listing


def as_csv(folder: Path) -> Path:
    with (folder / "table.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows([("File_Name", "Class"), *listing(folder)])
    return folder / "table.csv"


def as_tsv(folder: Path) -> Path:
    rows = [("label", "path"), *((label, path) for path, label in listing(folder))]
    (folder / "table.tsv").write_text("\n".join("\t".join(row) for row in reversed(rows[1:])))
    text = (folder / "table.tsv").read_text()
    (folder / "table.tsv").write_text("label\tpath\n" + text + "\n")
    return folder / "table.tsv"


def as_json_lines(folder: Path) -> Path:
    lines = (json.dumps({"image": path, "label": label}) for path, label in listing(folder))
    (folder / "table.jsonl").write_text("\n\n".join(lines))
    return folder / "table.jsonl"


def as_parquet(folder: Path) -> Path:
    rows = listing(folder)
    images = [(folder / path).read_bytes() for path, _ in rows]
    table = pa.table({"image": images, "label": [label for _, label in rows]})
    pq.write_table(table, folder.parent / "table.parquet")
    return folder.parent / "table.parquet"


def as_text(folder: Path) -> Path:
    """JSON lines with the pictures themselves, in both ways of writing them."""
    rows = listing(folder)
    texts = [base64.b64encode((folder / path).read_bytes()).decode() for path, _ in rows]
    images = [{"bytes": text} if i % 2 else f"data:;base64,{text}" for i, text in enumerate(texts)]
    lines = [
        json.dumps({"image": image, "label": label, **({"split": None} if i % 3 else {})})
        for i, (image, (_, label)) in enumerate(zip(images, rows, strict=True))
    ]
    (folder.parent / "table.ndjson").write_text("\n".join(lines))
    return folder.parent / "table.ndjson"


def as_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder.parent / "photos.zip", "w") as file:
        file.writestr("__MACOSX/wrapped/disc/._000.png", b"no picture")
        file.writestr("wrapped/.DS_Store", b"no picture")
        for path, _ in listing(folder):
            file.write(folder / path, f"wrapped/{path}")
    return folder.parent / "photos.zip"


def as_tar_with_a_table(folder: Path) -> Path:
    as_csv(folder)
    with tarfile.open(folder.parent / "photos.tar.gz", "w:gz") as file:
        file.add(folder, "photos")
    return folder.parent / "photos.tar.gz"


WAYS = [as_csv, as_tsv, as_json_lines, as_text, as_parquet, as_zip, as_tar_with_a_table]


@pytest.mark.parametrize("way", WAYS)
def test_the_same_pictures_are_the_same_set_whatever_they_come_in(way, added, place, tmp_path):
    folder = class_folders(tmp_path / "photos")
    first = added("folder", folder)
    assert added("other", way(folder)).fingerprint == first.fingerprint
    assert [path.name for path in place.root.iterdir() if path.name[0] == "~"] == []


def test_a_set_holds_the_bytes_that_came_and_no_other(added, place, tmp_path):
    folder = class_folders(tmp_path / "photos")
    (folder / "disc/000.png").write_bytes(encoded(picture("disc", 0), "JPEG", quality=91))
    came = {file.read_bytes(): file.parent.name for file in folder.rglob("*.png")}
    card = added("photos", folder)
    kept = {}
    for split in SPLITS:
        for data, (label,) in Pictures(place, "photos", card.files[split]).each():
            kept[data] = classes_of(place, card)[label]
    assert kept == came


def test_a_set_is_stored_as_the_hub_has_it(added, place, tmp_path):
    card = added("photos", class_folders(tmp_path / "photos"))
    files = sorted(str(p.relative_to(place.root)) for p in place.root.rglob("*") if p.is_file())
    assert files == ["photos/card.json"] + [
        f"photos/data/{split}-00000-of-00001.parquet" for split in sorted(SPLITS)
    ]
    assert card.made == list(SPLITS)
    table = pq.read_table(place.root / files[1])
    assert table.schema.field("image").type == pa.struct(
        {"bytes": pa.binary(), "path": pa.string()}
    )
    assert table.schema.field("label").type == pa.int64()
    told = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert told == {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": sorted(SHAPES)},
    }
    assert table["image"][0].as_py()["path"].endswith(".png")


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_a_set_of_the_hub_keeps_its_classes_and_splits(prefix, added, place, tmp_path):
    for split, first in (("train", 0), ("test", 20)):
        as_hub(class_folders(tmp_path / split / "photos", 4, first=first), split)
    (tmp_path / "hub/data").mkdir(parents=True)
    for file in tmp_path.glob("*/hub/data/*"):
        file.rename(tmp_path / "hub/data" / file.name)
    card = added("photos", f"{prefix}{tmp_path / 'hub'}")
    assert card.made == ["validation"]
    assert {split: sum(n) for split, n in card.check.counts.items()}["test"] == 12
    assert classes_of(place, card) == tuple(sorted(SHAPES))
    again = added("again", place.root / "photos")  # a set as it is stored is one of the Hub's
    assert again.fingerprint == card.fingerprint and again.made == []


def test_splits_above_class_folders_are_kept_under_their_usual_names(added, tmp_path):
    for name, first, each in (("Train", 0, 6), ("val", 20, 2), ("testing", 40, 3)):
        class_folders(tmp_path / "photos" / name, each, first=first)
    card = added("photos", tmp_path / "photos")
    assert card.made == [] and {s: sum(n) for s, n in card.check.counts.items()} == {
        "train": 18, "validation": 6, "test": 9,
    }  # fmt: skip


def test_classes_may_be_called_as_splits_are(added, place, tmp_path):
    class_folders(tmp_path / "photos", 6, ("disc", "square"))
    (tmp_path / "photos/disc").rename(tmp_path / "photos/train")
    card = added("photos", tmp_path / "photos")
    assert classes_of(place, card) == ("square", "train")


def test_a_split_column_is_kept(added, tmp_path):
    folder = class_folders(tmp_path / "photos", 6)
    names = ["train"] * 4 + ["dev", "eval"]
    lines = [
        json.dumps({"img": path, "species": label, "subset": names[i % 6]})
        for i, (path, label) in enumerate(listing(folder))
    ]
    (tmp_path / "table.jsonl").write_text("\n".join(lines))
    card = added("photos", tmp_path / "table.jsonl", images=folder)
    assert {s: n for s, n in card.check.counts.items()} == {
        "train": [4] * 3, "validation": [1] * 3, "test": [1] * 3,
    }  # fmt: skip


def test_columns_can_be_named_and_whole_numbers_are_classes_in_order(added, place, tmp_path):
    folder = class_folders(tmp_path / "photos", 4)
    rows = [f"{p},{(2, 10, 1)[SHAPES.index(label)]}" for p, label in listing(folder)]
    (folder / "t.csv").write_text("where,what\n" + "\n".join(rows))
    with pytest.raises(DataError, match="found where, what\nname it: --image-column"):
        added("photos", folder / "t.csv")
    card = added("photos", folder / "t.csv", Columns("where", "what"))
    assert classes_of(place, card) == ("1", "2", "10")


def test_names_of_classes_are_kept_to_the_letter(added, place, tmp_path):
    folder = class_folders(tmp_path / "photos", 4)
    names = [" two  blanks ", "two\nlines", "Ünïcødé 猫"]
    for old, new in zip(SHAPES, names, strict=True):
        (folder / old).rename(folder / new)
    assert classes_of(place, added("photos", folder)) == tuple(sorted(names))


def test_a_table_beside_the_pictures_of_each_split_is_read(added, place, tmp_path):
    for split, first, each in (("train", 0, 6), ("test", 20, 3)):
        as_csv(class_folders(tmp_path / "photos" / split, each, first=first))
    card = added("photos", tmp_path / "photos")
    assert card.made == ["validation"] and sum(card.check.counts["test"]) == 9
    assert classes_of(place, card) == ("cross", "disc", "square")


def test_a_column_counts_though_the_first_lines_lack_it(added, tmp_path):
    folder = class_folders(tmp_path / "photos", 4)
    rows = [{"image": path, "label": label} for path, label in listing(folder)]
    rows = [row | ({"split": "test"} if i % 4 == 3 else {}) for i, row in enumerate(rows)]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert added("photos", folder / "t.jsonl").check.counts["test"] == [1, 1, 1]


def test_what_lies_beside_class_folders_is_named(place, tmp_path):
    for split, first in (("train", 0), ("test", 9)):
        (class_folders(tmp_path / "photos" / split, 4, first=first) / "readme.txt").write_text("x")
        (tmp_path / "photos" / split / ".22 mm").mkdir()
    (tmp_path / "photos/.git").mkdir()
    _, _, _, notes = add(Request("photos", str(tmp_path / "photos")), place)
    assert notes == [
        "left out, as they are next to the class folders: test/readme.txt, train/readme.txt",
        "left out, as their names begin with a dot: .git, test/.22 mm, train/.22 mm",
    ]


def test_a_picture_in_a_csv_may_be_large(added, place, tmp_path):
    large = encoded(Image.effect_noise((500, 500), 90))
    rows = [(large, "noise"), *((encoded(picture("disc", i)), "disc") for i in range(5))]
    rows += [(encoded(picture("cross", i)), "cross") for i in range(5)]
    lines = [f"data:image/png;base64,{base64.b64encode(data).decode()}\t{n}" for data, n in rows]
    (tmp_path / "t.tsv").write_text("\n".join(["image\tlabel", *lines]))
    assert added("photos", tmp_path / "t.tsv", max_bad=0).check.pictures == 11


@pytest.mark.parametrize("group", [1, 8, 40, 160])
def test_large_pictures_of_a_parquet_file_are_read_a_few_at_a_time(tmp_path, monkeypatch, group):
    monkeypatch.setattr(tables, "BYTES_AT_ONCE", 10_000)
    rng = np.random.default_rng(0)
    pictures = [rng.bytes(size) for size in [10] * 80 + [3000] * 80]
    columns = {"image": pictures, "label": ["a"] * len(pictures)}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=group)
    batches, read = [], pq.ParquetFile.iter_batches

    def watched(*arguments, **named):
        for batch in read(*arguments, **named):
            batches.append([len(data) for data in batch["image"].to_pylist()])
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    rows = list(tables.table_source(tmp_path / "t.parquet", Columns()).rows())
    assert [row.image for row in rows] == pictures
    if group < 160:  # else one mean is that of small and of large ones
        assert max(map(sum, batches)) <= 10_000
    assert max(map(len, batches)) == min(group, 6 if group == 160 else 32)
