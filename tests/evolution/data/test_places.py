"""Where sets lie, a folder or a bucket: the same commands, and a set is there whole or not at all.

A real S3 server answers. What is left of a set, or damaged, is named and can be removed.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from evolution.data.adding import Request, add
from evolution.data.command import app
from evolution.data.errors import DataError
from evolution.data.places import open_place
from evolution.data.stored import card_of, cards
from evolution.data.tasks import load
from tests.evolution.data.drawn import class_folders


@pytest.fixture(params=["folder", "bucket"])
def where(request, tmp_path, monkeypatch) -> str:
    """MUNET_DATA of a test."""
    if request.param == "bucket":
        server = request.getfixturevalue("s3")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        found = server.url(f"{tmp_path.name}/sets")
    else:
        found = str(tmp_path / "sets")
    monkeypatch.setenv("MUNET_DATA", found)
    return found


@pytest.fixture
def munet(where):
    """Runs a command of `munet data`: its exit code and what it printed, or the error."""

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [str(word) for word in words])
        if done.exception and not isinstance(done.exception, SystemExit | DataError):
            raise done.exception
        told = str(done.exception) if isinstance(done.exception, DataError) else ""
        return done.exit_code, done.output + told

    return run


def test_a_set_is_added_listed_shown_checked_trained_on_and_removed(munet, where, tmp_path):
    folder = class_folders(tmp_path / "photos", 6)
    code, told = munet("add", "my/photos", "--from", folder, "--licence", "CC0-1.0")
    assert code == 0 and f"added my/photos to {where}" in told
    assert munet("add", "my/photos", "--from", folder)[1].endswith("nothing was added\n")
    assert json.loads(munet("ls", "--json")[1])[0]["name"] == "my/photos"
    assert "CC0-1.0" in munet("show", "my/photos")[1]
    assert munet("check", "my/photos")[0] == 0
    task = load("my/photos", ())
    assert len(task.train) == 12 and task.labels == ("cross", "disc", "square")
    assert task.train.training_images(np.arange(12))[0].shape == (12, 24, 24, 3)
    assert task.data and task.data["licence"] == "CC0-1.0"
    assert munet("rm", "my/photos") == (0, f"removed my/photos from {where}\n")
    code, told = munet("rm", "my/photos")
    assert code == 1 and "no data set 'my/photos'" in told
    assert "add one: munet data add NAME --from FOLDER" in munet("ls")[1]


def test_of_two_that_add_one_name_at_a_time_one_is_refused(where, tmp_path):
    place = open_place()
    folders = [class_folders(tmp_path / name, 6, first=i) for i, name in enumerate("ab")]

    def other(doing, done, total):
        if doing == "writing" and not cards(place):
            add(Request("photos", str(folders[1])), place)

    with pytest.raises(DataError, match="the name is in use"):
        add(Request("photos", str(folders[0])), place, other)
    [card] = cards(place)
    assert card.place == str(folders[1])


def test_what_is_damaged_is_named_beside_the_others_and_can_be_removed(munet, where, tmp_path):
    for name in ("good", "bad"):
        munet("add", name, "--from", class_folders(tmp_path / name, 6))
    open_place().replace_card("bad", b"{")
    code, told = munet("ls")
    assert code == 1 and "good" in told and "bad/card.json: expected a card" in told
    assert munet("show", "bad")[0] == 1
    assert munet("rm", "bad")[0] == 0
    assert munet("ls")[0] == 0


def test_what_an_interrupted_add_left_in_a_bucket_is_named_and_can_be_removed(
    s3, tmp_path, monkeypatch, request
):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MUNET_DATA", s3.url(tmp_path.name))
    client = s3.client(tmp_path.name)
    client.put("photos/data/train-00000-of-00001.parquet", b"half")
    folder, place = class_folders(tmp_path / "photos", 6), open_place()
    assert cards(place) == [] and card_of(place, "photos") is None
    with pytest.raises(DataError, match=r"(?s)another command adds.*munet data rm photos"):
        add(Request("photos", str(folder)), place)
    assert CliRunner().invoke(app, ["rm", "photos"]).exit_code == 0
    add(Request("photos", str(folder)), place)
    assert len(cards(place)) == 1


def test_a_table_names_pictures_in_a_bucket(s3, added, place, tmp_path, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    folder, client = class_folders(tmp_path / "photos", 4), s3.client(tmp_path.name)
    lines = ["image,label"]
    for file in sorted(folder.rglob("*.png")):
        key = f"{file.parent.name}/{file.name}"
        client.put(key, file.read_bytes())
        lines.append(f"{s3.url(tmp_path.name)}/{key},{file.parent.name}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    first = added("folder", folder)
    assert added("bucket", tmp_path / "t.csv").fingerprint == first.fingerprint
    (tmp_path / "t.csv").write_text("\n".join([*lines, f"{s3.url(tmp_path.name)}/gone.png,disc"]))
    with pytest.raises(DataError, match=r"gone\.png: no such object"):
        added("less", tmp_path / "t.csv")


def test_a_place_that_cannot_be_used_is_told(munet, monkeypatch, where, tmp_path):
    if where.startswith("s3:"):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        code, told = munet("ls")
        assert code == 1 and "check the URL and its credentials" in told
        assert len(told.splitlines()) <= 5
    monkeypatch.setenv("MUNET_DATA", "ftp://somewhere")
    assert "expected a folder, s3://" in munet("ls")[1]
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("MUNET_DATA", str(file))
    assert f"expected a folder, found a file: {file}" in munet("ls")[1]


def test_a_disk_that_is_full_half_way_leaves_nothing(tmp_path):
    folder, sets = class_folders(tmp_path / "photos", 6), tmp_path / "sets"
    limited = ["bash", "-c", 'ulimit -f 4; exec "$@"', "munet", sys.executable]
    done = subprocess.run(
        [*limited, "-m", "munet", "data", "add", "photos", "--from", str(folder)],
        env={**os.environ, "MUNET_DATA": str(sets)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "nothing was added\nmake room" in done.stderr, done.stderr
    assert list(sets.iterdir()) == []
