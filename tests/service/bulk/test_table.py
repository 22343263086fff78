"""`munet classify --out`: the table of a folder, and runs that were interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_store import ModelStore
from model_store.files.atomic import Lock
from service.bulk.parts import Parts
from tests.service.bulk.tables import ASKED, PICTURES, TASKS, Done, rows, run
from tests.service.servers import ROOT
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually

Run = Callable[..., Done]
FIFO = "more/0240.png"  # the picture that a run waits for: the 301st


@pytest.fixture
def classify(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    return lambda *arguments: run(capsys, monkeypatch, *arguments)


def test_a_table_has_a_row_for_each_picture_and_task(
    classify: Run, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.parquet"
    done = classify("photos", *ASKED, "--store", "store", "--out", out, "--json", "--top-k", "2")
    assert done.code == 1  # a picture has no answer
    summary = json.loads(done.out)
    assert (summary["images"], summary["rows"], summary["errors"]) == (PICTURES, 2 * PICTURES, 2)
    assert [one["task"] for one in summary["tasks"]] == list(TASKS)
    assert "left out: 1 files" in done.err
    found = rows(out)
    digests = {task: ModelStore(place / "store").resolve(task).digest for task in TASKS}
    assert len({(row["source"], row["task"]) for row in found}) == len(found) == 2 * PICTURES
    for row in found:
        assert (row["version"], row["digest"]) == (1, digests[row["task"]])
        if row["source"] == "photos/0001.png":
            assert (row["error"], row["label"], row["top"]) == ("bad-image", None, [])
            assert "PNG" in row["message"]
        else:
            assert row["error"] is None and len(row["top"]) == 2
            assert row["top"][0] == {"label": row["label"], "probability": row["probability"]}
    assert not out.with_name("answers.parquet.parts").exists()
    again = classify("photos", *ASKED, "--store", "store", "--out", out)
    assert again.code == 2 and "there already" in again.err


def test_tables_of_text_have_the_same_rows(classify: Run, tmp_path: Path) -> None:
    tables = [tmp_path / f"answers{ending}" for ending in (".parquet", ".csv", ".jsonl")]
    for out in tables:
        done = classify("photos/more/00*.png", *ASKED, "--store", "store", "--out", out)
        assert done.code == 0, done.err
        assert f"{out}: 34 images, 68 rows" in done.out
    first, *others = map(rows, tables)
    assert others == [first, first]


def interrupted(place: Path, out: Path, settings: dict[str, str], number: int) -> str:
    """Starts a run that a picture holds up, ends it by a signal, and says what it said."""
    picture = place / "photos" / FIFO
    kept = picture.read_bytes()
    picture.unlink()
    os.mkfifo(picture)
    command = [sys.executable, str(ROOT / "munet.py"), "classify", "photos", *ASKED]
    process = subprocess.Popen(
        [*command, "--store", "store", "--out", str(out)],
        cwd=place,
        env={**os.environ, **settings},
        stderr=subprocess.PIPE,
    )
    try:
        folder = out.with_name(f"{out.name}.parts")
        eventually(lambda: process.poll() is not None or [*folder.glob("*.jsonl")], PATIENCE_S)
        process.send_signal(number)
        held_up = os.open(picture, os.O_RDWR | os.O_NONBLOCK)  # lets who waits for it go on
        os.close(held_up)
        told = process.communicate(timeout=PATIENCE_S)[1].decode()
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert not out.exists() and [*folder.glob("*.jsonl")]
    finally:
        process.kill()  # where it has not ended
        process.wait()
        picture.unlink()
        picture.write_bytes(kept)
    return told


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_ended_goes_on_and_its_table_is_that_of_one_that_was_not(
    classify: Run, place: Path, settings: dict[str, str], tmp_path: Path, number: int
) -> None:
    ended, undisturbed = tmp_path / "ended.parquet", tmp_path / "undisturbed.parquet"
    told = interrupted(place, ended, settings, number)
    done = classify("photos", *ASKED, "--store", "store", "--out", ended, "--json")
    assert f"goes on after 256 of {PICTURES}" in done.err or number == signal.SIGINT
    assert "the same command goes on" in told or number == signal.SIGKILL
    assert json.loads(done.out)["images_of_this_run"] <= PICTURES - 256
    classify("photos", *ASKED, "--store", "store", "--out", undisturbed)
    assert rows(ended) == rows(undisturbed)


@pytest.fixture
def begun(classify: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table whose run was ended before it was joined."""

    def ended(self: Any) -> tuple[int, int]:
        raise OSError("ended on purpose")

    out = tmp_path / "begun.csv"
    with monkeypatch.context() as patched:
        patched.setattr(Parts, "join", ended)
        assert classify("photos/00*.png", *ASKED, "--store", "store", "--out", out).code == 1
    return out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos", *ASKED], "sources"),
        (["photos/00*.png", "--task", "plain"], "tasks"),
        (["photos/00*.png", *ASKED, "--top-k", "9"], "top-k"),
    ],
)
def test_something_else_on_the_same_table_is_refused(
    classify: Run, begun: Path, arguments: list[str], words: str
) -> None:
    done = classify(*arguments, "--store", "store", "--out", begun)
    assert done.code == 2 and words in done.err and "go on" in done.err
    assert classify("photos/00*.png", *ASKED, "--store", "store", "--out", begun).code == 1
    assert begun.exists()


def test_a_second_process_on_the_same_table_is_refused(classify: Run, begun: Path) -> None:
    with Lock(begun.with_name(f"{begun.name}.parts") / "lock").held():
        done = classify("photos/00*.png", *ASKED, "--store", "store", "--out", begun)
    assert done.code == 2 and "another process" in done.err


def test_a_table_keeps_the_versions_that_it_began_with(
    classify: Run, place: Path, begun: Path, tmp_path: Path
) -> None:
    store = ModelStore(place / "store")
    second = publish(store, "plain", own={"head": 99})
    try:
        for part in begun.with_name(f"{begun.name}.parts").glob("*.jsonl"):
            part.unlink()  # so that all is answered now
        classify("photos/00*.png", *ASKED, "--store", "store", "--out", begun)
        assert {row["version"] for row in rows(begun)} == {1}
        new = tmp_path / "new.csv"
        classify("photos/00*.png", *ASKED, "--store", "store", "--out", new)
        assert {row["version"] for row in rows(new) if row["task"] == "plain"} == {second.version}
    finally:
        store.rollback("plain", 1)


def test_one_that_ended_just_before_its_folder_was_removed_is_finished(
    classify: Run, begun: Path
) -> None:
    folder = begun.with_name(f"{begun.name}.parts")
    kept = shutil.copytree(folder, begun.with_name("kept"))
    classify("photos/00*.png", *ASKED, "--store", "store", "--out", begun)
    first = rows(begun)
    kept.rename(folder)
    done = classify("photos/00*.png", *ASKED, "--store", "store", "--out", begun)
    assert done.code == 1 and rows(begun) == first and not folder.exists()


def test_pictures_that_came_later_wait_for_the_next_table(
    classify: Run, place: Path, begun: Path
) -> None:
    late = place / "photos/00late.png"
    late.write_bytes(png(7))
    try:
        classify("photos/00*.png", *ASKED, "--store", "store", "--out", begun)
    finally:
        late.unlink()
    assert "photos/00late.png" not in {row["source"] for row in rows(begun)}
