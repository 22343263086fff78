"""`python -m model_store`, as a user runs it: once in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from model_store import ModelStore
from model_store.upkeep import usage_of
from tests.model_store import commands
from tests.model_store.samples import arrays, new_store, publish


def run(store: Path | None, *arguments: str, by_environment: bool = False) -> tuple[int, str, str]:
    """(exit code, output, error output) of one command."""
    if store and by_environment:
        return commands.run(*arguments, MUNET_STORE=str(store))
    return commands.run(*arguments, *(("--store", str(store)) if store else ()))


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """Two tasks, the first with two versions."""
    made = new_store(tmp_path)
    for seed in (1, 2):
        publish(made, "cmaterdb/bangla", seed)
    publish(made, "cmaterdb/telugu", 3, private=True)
    return made


def test_looking(store: ModelStore) -> None:
    code, output, _ = run(Path(store.url), "ls")
    assert code == 0
    rows = [line.split() for line in output.splitlines()]
    assert [row[:2] for row in rows[1:]] == [["cmaterdb/bangla", "v2"], ["cmaterdb/telugu", "v1"]]
    code, output, _ = run(Path(store.url), "show", "cmaterdb/bangla", "--version", "1")
    assert code == 0
    first = store.resolve("cmaterdb/bangla", 1)
    for fact in ("v1", first.digest, first.path.components["head"], '"accuracy": 0.5'):
        assert fact in output
    facts = {line.split()[0]: " ".join(line.split()[1:]) for line in output.splitlines() if line}
    assert facts["labels"].startswith(f"{len(first.path.labels)}: {first.path.labels[0]}")
    assert facts["validation"].startswith("accuracy 0.5000")
    code, output, _ = run(Path(store.url), "history", "cmaterdb/bangla")
    assert code == 0
    assert [line.split()[:2] for line in output.splitlines()][2] == ["v2", "live"]
    code, output, _ = run(Path(store.url), "du")
    assert code == 0 and "2 tasks" in output and f"ratio {usage_of(store).ratio:.2f}" in output


def test_numbers_end_below_the_end_of_their_heading_and_names_begin_below_its_begin(
    store: ModelStore,
) -> None:
    _, output, _ = run(Path(store.url), "du")
    heading, *rows = (line for line in output.splitlines() if not line[:1].isdigit())
    assert heading.split() == ["task", "own", "shared", "total"]
    for name in ("own", "shared", "total"):
        end = heading.index(name) + len(name)
        assert all(row[end - 1].isalpha() and not row[end : end + 1].strip() for row in rows), name
    assert all(row.startswith("cmaterdb/") for row in rows) and heading.startswith("task")


def test_json(store: ModelStore) -> None:
    _, output, _ = run(Path(store.url), "ls", "--json", by_environment=True)
    assert [(item["task"], item["version"]) for item in json.loads(output)] == [
        ("cmaterdb/bangla", 2),
        ("cmaterdb/telugu", 1),
    ]
    _, output, _ = run(Path(store.url), "show", "cmaterdb/telugu", "--json", by_environment=True)
    shown = json.loads(output)
    published = store.resolve("cmaterdb/telugu")
    assert shown["path"] == published.path.to_json()
    assert shown["digest"] == published.digest and shown["sizes"] == published.sizes
    _, output, _ = run(Path(store.url), "du", "--json", by_environment=True)
    usage = usage_of(store)
    found = json.loads(output)
    assert (found["logical"], found["stored"], found["ratio"]) == (
        usage.logical,
        usage.stored,
        usage.ratio,
    )
    assert [task["task"] for task in found["tasks"]] == ["cmaterdb/bangla", "cmaterdb/telugu"]


def test_changing(store: ModelStore) -> None:
    assert run(Path(store.url), "rollback", "cmaterdb/bangla", "1")[:2] == (
        0,
        "cmaterdb/bangla: v1 is live\n",
    )
    assert store.resolve("cmaterdb/bangla").version == 1
    assert run(Path(store.url), "rm", "cmaterdb/bangla", "--version", "2")[0] == 0
    assert [item.version for item in store.history("cmaterdb/bangla")] == [1]
    assert run(Path(store.url), "rm", "cmaterdb/telugu")[0] == 0
    assert store.tasks() == ["cmaterdb/bangla"]
    store.put(arrays(9))
    code, output, _ = run(Path(store.url), "gc", "--grace-s", "0", "--dry-run")
    assert code == 0 and "would remove 9 blobs" in output
    assert run(Path(store.url), "gc")[1].startswith("removed 0 blobs")  # all within the hour
    code, output, _ = run(Path(store.url), "gc", "--grace-s", "0")
    assert code == 0 and "removed 9 blobs" in output and "5 blobs kept" in output


def test_a_pin_is_listed_until_it_is_taken_away(store: ModelStore) -> None:
    assert run(Path(store.url), "pin", "keep", "cmaterdb/bangla", "--version", "1")[0] == 0
    manifest = store.resolve("cmaterdb/bangla", 1).digest
    listed = run(Path(store.url), "pins", "--json")[1]
    assert json.loads(listed) == [{"pin": "keep", "manifest": manifest}]
    assert run(Path(store.url), "unpin", "keep")[:2] == (0, "keep keeps nothing now\n")
    assert store.pins() == {}


def test_verify(store: ModelStore) -> None:
    assert run(Path(store.url), "verify")[:2] == (0, "0 errors, 0 warnings\n")
    digest = store.resolve("cmaterdb/telugu").path.components["head"]
    file = Path(store.url) / "blobs/sha256" / digest[7:]
    file.write_bytes(b"x" * file.stat().st_size)
    code, output, error = run(Path(store.url), "verify")
    assert (code, error) == (1, "")
    assert str(file) in output and digest in output and "1 errors, 0 warnings" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "cmaterdb/telugo"), "did you mean cmaterdb/telugu"),
        (("history", "x"), "no task 'x'"),
        (("rollback", "cmaterdb/telugu", "7"), "no version 7"),
        (("rm", "cmaterdb/telugu", "--version", "1"), "is live"),
        (("show", "../x"), "expected segments"),
    ],
)
def test_errors_are_one_line(store: ModelStore, arguments: tuple[str, ...], message: str) -> None:
    code, output, error = run(Path(store.url), *arguments)
    assert (code, output) == (1, "")
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_no_store(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model_store", "ls", "--store", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "expected a file munet-store" in done.stderr
    assert (1, done.stdout, done.stderr) == run(tmp_path / "nothing", "ls")
    assert not (tmp_path / "nothing").exists()
    code, _, error = run(None, "ls")
    assert code == 2 and "--store" in error and "MUNET_STORE" in error


def test_help_names_every_command() -> None:
    code, output, _ = run(None, "--help")
    assert code == 0
    for command in ("ls", "show", "du", "verify", "gc", "history", "rollback", "rm"):
        assert f" {command} " in output
