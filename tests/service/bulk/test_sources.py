"""Where many images come from."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.files import buckets
from service.bulk import sources
from service.bulk.sources import BadSource, Source, open_sources, source_of
from service.client import BadImage
from tests.service.client.canned import serving
from tests.service.systems import png


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some pictures in and below the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/more").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.jpg", "more/c.PNG", "more/d.txt", ".e.png")):
        (tmp_path / "photos" / name).write_bytes(png(number))
    return tmp_path


def named(source: Source, start: int = 0) -> dict[str, Any]:
    """The bytes of each image by its name, or the error."""
    found: dict[str, Any] = {}
    for item in source.items(start):
        try:
            found[item.name] = item.read()
        except BadImage as error:
            found[item.name] = error
    return found


def test_a_folder_has_all_pictures_below_it_in_the_same_order(folder: Path) -> None:
    source = open_sources(["photos"])
    assert [*named(source)] == ["photos/a.jpg", "photos/b.png", "photos/more/c.PNG"]
    assert named(source)["photos/b.png"] == png(0)
    assert len(source) == 3 and [*named(source, 2)] == ["photos/more/c.PNG"]
    assert source_of(json.loads(json.dumps(source.to_json()))).to_json() == source.to_json()


def test_a_pattern_and_several_names(folder: Path) -> None:
    assert [*named(open_sources(["photos/**/*.[pP]*"]))] == ["photos/b.png", "photos/more/c.PNG"]
    assert [*named(open_sources(["photos/b.png", "photos/more"]))] == [
        "photos/b.png",
        "photos/more/c.PNG",
    ]


def test_a_list_has_paths_from_its_folder_and_urls(folder: Path) -> None:
    with serving() as server:
        server.answers += [(200, {}, png(5)), (404, {}, b"")]
        url = f"http://127.0.0.1:{server.server_port}"
        lines = ["b.png", "", f"{url}/x", f"{url}/y", "missing.png"]
        (folder / "photos/all.txt").write_text("\n".join(lines))
        found = named(open_sources(["photos/all.txt"]))
    assert (found["b.png"], found[f"{url}/x"]) == (png(0), png(5))
    assert "404" in str(found[f"{url}/y"]) and "No such file" in str(found["missing.png"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "label,Path\nx,b.png\ny,a.jpg\n"),
        ("t.tsv", "label\tpath\nx\tb.png\ny\ta.jpg\n"),
        ("t.jsonl", '{"image": "b.png"}\n{"image": "a.jpg"}\n'),
    ],
)
def test_a_table_has_a_column_of_paths_from_its_folder(folder: Path, name: str, text: str) -> None:
    (folder / "photos" / name).write_text(text)
    assert named(open_sources([f"photos/{name}"])) == {"b.png": png(0), "a.jpg": png(1)}


def test_a_parquet_file_has_paths_or_the_pictures_themselves(folder: Path) -> None:
    pq.write_table(pa.table({"file": ["b.png", "a.jpg"]}), "photos/paths.parquet")
    assert named(open_sources(["photos/paths.parquet"])) == {"b.png": png(0), "a.jpg": png(1)}
    images = [{"bytes": png(n), "path": None if n % 2 else f"{n}.png"} for n in range(50)]
    images[7] = {"bytes": None, "path": None}
    pq.write_table(pa.table({"image": images}), "images.parquet", row_group_size=10)
    source = open_sources(["images.parquet"])
    found = named(source)
    assert len(source) == len(found) == 50
    assert found["12.png"] == png(12) and found["images.parquet, row 14"] == png(13)
    assert isinstance(found["images.parquet, row 8"], BadImage)
    for start in (5, 10, 43):
        assert [*named(source, start)] == [*found][start:]
        assert named(source, start).get("48.png") == png(48)
    saved = source_of(json.loads(json.dumps(source.to_json())))
    assert saved == source


class Bucket:
    """What a bucket holds, without one."""

    def __init__(self, url: str) -> None:
        assert url.startswith("s3://photos")

    def urls(self, prefix: str) -> list[str]:
        assert prefix == "s3://photos/2026"
        return ["s3://photos/2026/b.png", "s3://photos/2026/a.png", "s3://photos/2026/list.json"]

    def read(self, url: str, most: int) -> bytes | None:
        return png(1) if url.endswith("a.png") else None


def test_a_bucket_has_the_pictures_below_its_prefix(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "Bucket", Bucket)
    source = open_sources(["s3://photos/2026"])
    found = named(source)
    assert found["s3://photos/2026/a.png"] == png(1)
    assert "no such object" in str(found["s3://photos/2026/b.png"])
    assert [*found] == sorted(found) and len(found) == 2


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (["missing"], "found nothing there"),
        (["photos/more/*.txt"], "expected pictures"),
        (["t.csv"], "rename one"),
        (["t.csv", "photos"], "alone"),
        (["bad.jsonl"], "expected a table"),
        (["bad.parquet"], "expected a parquet file"),
        (["bytes.txt"], "bytes.txt"),
    ],
)
def test_what_has_no_pictures_is_refused(folder: Path, places: list[str], words: str) -> None:
    (folder / "t.csv").write_text("name,label\nx,y\n")
    (folder / "bad.jsonl").write_text("{")
    (folder / "bad.parquet").write_bytes(b"PAR")
    (folder / "bytes.txt").write_bytes(base64.b64decode("//79"))
    with pytest.raises(BadSource, match=words):
        open_sources(places)


def test_which_urls_are_in_buckets() -> None:
    assert buckets.is_bucket("gs://bucket/prefix")
    assert not buckets.is_bucket("http://host/s3://x") and not buckets.is_bucket("s3")
