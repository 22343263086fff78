"""The benchmark of the store, with sizes so small that only its lines mean something."""

import json
import math
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from loadtests.command import app
from loadtests.store import (
    CostSetup,
    Report,
    Setup,
    json_line,
    measure,
    measure_costs,
    render,
    throughput,
)
from model_store.files.ballast import SIZE
from tests.model_store.object_stores import S3Server
from tests.model_store.places import Place

PEERS = ["store", "plain copy", "safetensors"]
LOADS = ["store", "store, a thread per core", "read()", "read() and SHA-256", "safetensors"]
COUNTS = ["1 task", "10 tasks", "12 tasks"]
LINES = {
    "limits": [
        *("durable write", "read, cold", "read, cached", "copy in memory"),
        *("SHA-256, one thread", "durable write of one byte"),
    ],
    "publish": PEERS,
    "split": ["encode", "digest", "write and fsync", "rest"],
    "cached": LOADS,
    "cold": LOADS,
    "new": ["store", "plain copy of its own"],
    "own": ["store", "read() of its own", "store, all of it cold"],
    "bytes": ["store", "full models: one, times tasks"],
    "resolve": COUNTS,
    "poll": COUNTS,
    "version": COUNTS,
}
TARGETS = [
    "load",
    "load",
    "load",
    "load",
    "publish",
    "resolve",
    "idle poll",
    "poll after a publish",
]


@pytest.fixture(autouse=True)
def small_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits are measured with 1 MB."""
    monkeypatch.setattr(throughput, "PIECE_BYTES", 10**6)


def tiny(**changes: str) -> Setup:
    return Setup(
        size="tiny", small_size="tiny", rounds=1, tasks=12, sharing_tasks=3, calls=4, **changes
    )


def require_every_line(report: Report) -> None:
    assert {s.key: [line.name for line in s.lines] for s in report.sections} == LINES
    for section in report.sections:
        for line in section.lines:
            assert line.values and all(map(math.isfinite, line.values.values()))
            if line.name != "rest":  # what is left of a publish may come out below zero
                assert min(line.values.values()) > 0, (section.key, line)
    assert [t.what.partition(",")[0].partition(":")[0] for t in report.targets] == TARGETS


def test_every_line_of_the_report_is_there(tmp_path: Path) -> None:
    heard: list[str] = []
    report = measure(tiny(directory=str(tmp_path)), heard.append)
    require_every_line(report)
    assert len(heard) == 5
    assert not list(tmp_path.iterdir()), "the throw-away store is gone"
    shared = report.section("bytes")
    own = shared.value("store", "MB") - SIZE / 1e6  # of so small a store most is its reserve
    assert own < shared.value("full models: one, times tasks", "MB") * 3
    document = json.loads(json_line(report))
    assert document["setup"]["tasks"] == 12 and document["host"]["cores"] > 0
    console = Console(record=True, width=120, file=(tmp_path / "shown").open("w"))
    console.print(render(report))
    shown = console.export_text()
    for name in [name for names in LINES.values() for name in names]:
        assert name in shown
    assert " on " in shown.splitlines()[0], "says which file system it is"


def test_an_object_store_is_measured_below_a_prefix_that_is_gone_afterwards(
    s3: S3Server, s3_store: Place, tmp_path: Path
) -> None:
    report = measure(tiny(directory=str(tmp_path), store=s3_store.url))
    assert s3.paths(tmp_path.name) == []
    require_every_line(report)
    assert report.place.startswith(f"{s3_store.url}/benchmark-")


def test_the_command_appends_a_line_and_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    missing = CliRunner().invoke(app, ["store", "--dir", str(tmp_path / "missing")])
    assert (missing.exit_code, missing.stderr[:7]) == (2, "error: ")
    for option, value in (("--size", "Z/1"), ("--tasks", "3"), ("--rounds", "0")):
        refused = CliRunner().invoke(app, ["store", option, value])
        assert (refused.exit_code, refused.stderr[:7]) == (2, "error: ")


OPERATIONS = [
    "publish, all but a head is there",
    "publish, all components put again",
    "rollback",
    "alias",
    "pin",
    "unpin",
    "rm of a version",
    "save an agent's state",
    "gc, nothing to remove",
    "gc of 100 blobs",
]


def test_calls_and_requests_of_single_operations(
    s3: S3Server, s3_store: Place, tmp_path: Path
) -> None:
    (tmp_path / "local").mkdir()
    section = measure_costs(CostSetup(str(tmp_path / "local"), None, 3, 1, 1)).section("costs")
    assert [line.name for line in section.lines] == OPERATIONS
    assert section.value("rm of a version", "fsync") == 4  # document and copy, and their folders
    assert section.value("gc of 100 blobs", "names") > 100
    assert not list((tmp_path / "local").iterdir())
    section = measure_costs(CostSetup(str(tmp_path), s3_store.url, 3, 1, 1)).section("costs")
    assert s3.paths(tmp_path.name) == []
    assert [line.name for line in section.lines] == OPERATIONS
    assert section.value("rm of a version", "PUT") == 2
    assert section.value("gc of 100 blobs", "DELETE") == 100
