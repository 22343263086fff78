"""The files of a set: written in groups of rows, and read at random."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evolution.data import stored
from evolution.data.rows import read_picture
from evolution.data.stored import Pictures, write_split

SCHEMA = pa.schema([
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())
])  # fmt: skip
ROWS = [(f"{number}.png", bytes([number]) * (number + 1), (number % 3,)) for number in range(10)]


@pytest.fixture
def small_groups(monkeypatch):
    """Three rows a group at most, and few bytes in a group or a file."""
    monkeypatch.setattr(stored, "ROWS_A_GROUP", 3)
    monkeypatch.setattr(stored, "BYTES_A_GROUP", 15)
    monkeypatch.setattr(stored, "BYTES_A_SHARD", 20)


def test_rows_of_all_groups_and_files_are_found_in_any_order(small_groups, place):
    folder = place.root / "numbers"
    folder.mkdir(parents=True)
    names, size = write_split(folder, "train", SCHEMA, iter(ROWS))
    files = [pq.ParquetFile(folder / name) for name in names]
    groups = [
        file.metadata.row_group(i).num_rows for file in files for i in range(file.num_row_groups)
    ]
    assert groups == [3, 3, 2, 2] and len(files) == 2
    assert size == sum((folder / name).stat().st_size for name in names)
    pictures = Pictures(place, "numbers", names)
    assert len(pictures) == 10
    for order in (range(10), range(9, -1, -1), [7, 0, 7, 3, 9]):
        assert pictures.rows(list(order)) == [ROWS[number][1:] for number in order]


def test_a_file_is_whole_when_the_next_is_begun(small_groups, tmp_path):
    shard = stored._Shard(tmp_path / "part", SCHEMA)
    shard.write(ROWS)
    assert shard.full
    shard.close()
    assert pq.read_table(tmp_path / "part").num_rows == 10


def test_why_a_picture_cannot_be_read_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    os.symlink("loop", tmp_path / "loop")
    for name, why in {
        "none": r"no such file \(any more\)",
        "file/inside": "Not a directory",
        "loop": "links in a circle",
        ".": "no plain file",
    }.items():
        with pytest.raises(ValueError, match=f"^{why}$"):
            read_picture(tmp_path / name, tmp_path.resolve())
    assert read_picture(tmp_path / "file", tmp_path.resolve()) == b"x"
