"""The command as a user runs it, in a process of its own where its exit code matters."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtests.command import app
from tests.loadtests.fake_gateway import fake_gateway

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "munet", "loadtest", "run", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_run_prints_its_report_and_appends_one_line(tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    output.write_text('{"an": "earlier run"}\n')
    with fake_gateway("cmaterdb/bangla", "cmaterdb/telugu") as gateway:
        options = ["--url", gateway.url, "--rate", "50", "--seconds", "0.5", "--seed", "7"]
        options += ["--popularity", "zipf:1.1", "--task", "cmaterdb/telugu"]
        options += ["--task", "cmaterdb/bangla", "--deadline-ms", "500", "--output", str(output)]
        done = command(*options)
    assert done.returncode == 0, done.stderr
    assert "zipf:1.1 over 2 tasks" in done.stdout
    assert "cmaterdb/telugu" in done.stdout
    earlier, line = (json.loads(line) for line in output.read_text().splitlines())
    assert earlier == {"an": "earlier run"}
    assert line["setup"]["tasks"] == ["cmaterdb/telugu", "cmaterdb/bangla"]
    assert (line["setup"]["seed"], line["setup"]["deadline_ms"]) == (7, 500)
    assert line["result"]["count"] == line["result"]["ok"] == len(gateway.posts)


def test_failed_requests_are_reported_kept_and_set_the_exit_code(tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder" / "results.jsonl"
    with fake_gateway("busy") as gateway:
        options = ["--rate", "50", "--seconds", "0.5", "--output", str(output)]
        done = command("--url", gateway.url, *options)
    assert done.returncode == 1, done.stderr
    assert "503: " in done.stdout
    line = json.loads(output.read_text())
    assert line["result"]["errors"] == {"503": line["result"]["count"]}


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--url", "http://192.0.2.1:3000", "loopback"),
        ("--popularity", "zipf", "zipf:1.1"),
        ("--output", "/dev/null/x.jsonl", "opening output"),
        ("--url", "http://127.0.0.1:1", "start the gateway first"),
    ],
)
def test_a_run_that_cannot_take_place_says_why(option: str, value: str, reason: str) -> None:
    done = CliRunner().invoke(app, ["run", "--rate", "1", "--seconds", "1", option, value])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and reason in done.stderr
