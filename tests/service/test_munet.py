"""`munet serve` and `munet classify`, as somebody at a terminal uses them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import munet
from model_store import ModelStore
from service.client import calls
from service.client.tasks_command import one_line
from service.host.greeting import greeting
from service.settings import OTHERS, Settings
from tests.service.client.canned import problem, serving
from tests.service.servers import ROOT, Server
from tests.service.systems import bomb, png, publish
from tests.service.waiting import PATIENCE_S, eventually

MUNET = [sys.executable, str(ROOT / "munet.py")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and some files, far from the checkout."""
    folder = tmp_path_factory.mktemp("somewhere")
    store = ModelStore(folder / "store", create=True)
    publish(store, "aaa", private=True)
    publish(store, "group/flowers")
    (folder / "a picture.png").write_bytes(png(1))
    (folder / "other.png").write_bytes(png(2))
    (folder / "notes.png").write_bytes(b"no picture")
    (folder / "unreadable.png").symlink_to("unreadable.png")
    (folder / "large.png").write_bytes(bomb(5000))
    return folder


@pytest.fixture(scope="module")
def server(place: Path, compilations: str) -> Iterator[Server]:
    variables = {
        "MUNET_COMPILATION_CACHE": compilations,
        "MUNET_MAX_BATCH_ROWS": "4",
        "MUNET_BACKEND": "jax",
        "MUNET_PRELOAD": "*",  # no request's deadline has to bear a slow machine's compiler
        "BENTOML_HOST": "127.0.0.1",
        "MUNET_TOKEN": "of munet classify",
        "MUNET_DATA": "of munet data",
    }
    command = [*MUNET, "serve", "--store", "store"]
    with Server(".", place / "home", command=command, cwd=place, **variables) as started:
        yield started


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path) -> Run:
    """Runs the command in this process, in a terminal of 80 columns."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "80")

    def running(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["munet", *arguments])
        with pytest.raises(SystemExit) as ended:
            munet.main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return running


@pytest.fixture
def ask(run: Run, server: Server) -> Run:
    url = f"http://127.0.0.1:{server.port}"
    return lambda task, *arguments: run("classify", "--url", url, "--task", task, *arguments)


def test_it_says_when_it_is_ready_and_its_curl_line_works(server: Server, place: Path) -> None:
    line = eventually(lambda: re.findall(r"^try it: (.*)$", server.log.read_text(), re.MULTILINE))
    (command,) = line
    assert "munet: ready at http://127.0.0.1:" in server.log.read_text()
    command = command.replace("@PICTURE", f"@{shlex.quote('a picture.png')}")
    done = subprocess.run(["bash", "-c", f"{command} -s"], cwd=place, capture_output=True)
    assert json.loads(done.stdout)["task"] == "group/flowers"  # the other one is private


@pytest.mark.slow
def test_a_port_with_another_gateway_on_it_is_not_greeted(server: Server, place: Path) -> None:
    done = subprocess.run(
        [*MUNET, "serve", "--store", "store", "--port", str(server.port)],
        cwd=place,
        env={**os.environ, "BENTOML_HOST": "127.0.0.1", "BENTOML_HOME": str(place / "home")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: ") and str(server.port) in error


@pytest.mark.slow
def test_it_is_the_gateway_itself_and_ends_as_it_does(place: Path, compilations: str) -> None:
    command = [*MUNET, "serve", "--store", "store"]
    variables = {"MUNET_BACKEND": "jax", "MUNET_COMPILATION_CACHE": compilations}
    with Server(
        ".", place / "other", command=command, cwd=place, MUNET_DRAIN_S="0.1", **variables
    ) as started:
        eventually(lambda: "ready at" in started.log.read_text())
        started.process.send_signal(signal.SIGINT)
        assert started.process.wait(PATIENCE_S) == 0


def test_what_is_said_of_a_store_without_tasks_and_where_tokens_are_wanted(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "a store", create=True)
    assert f"munet evolve TASK --store '{store.url}'" in greeting("http://h:1", store, False)
    publish(store, "only", private=True)
    assert "only" not in greeting("http://h:1", store, False)
    publish(store, "task")
    said = greeting("http://h:1", store, True)
    assert '-H "authorization: Bearer $MUNET_TOKEN" http://h:1/classify/task' in said


def test_variables_of_other_commands_do_not_stop_the_gateway() -> None:
    """Who sets them for a shell has them set for the gateway as well."""
    read = set[str]()
    for package in ("model_store", "evolution", "service"):
        for file in (ROOT / package).rglob("*.py"):
            read |= set(re.findall(r'"MUNET_([A-Z_]+)"', file.read_text()))
    assert {"DATA", "STORE_LATE_S", "CACHE"} <= read
    for name in read - {"STORE", "TOKEN"}:  # munet serve takes the last away
        if not hasattr(Settings("s"), name.lower()):
            assert name in OTHERS, f"MUNET_{name}"
            Settings.from_environment({"MUNET_STORE": "s", f"MUNET_{name}": "1"})


def test_pictures_are_answered_in_a_table(ask: Run) -> None:
    done = ask("group/flowers", "a picture.png", "other.png", "--top-k", "2")
    assert (done.code, done.err) == (0, "")
    heading, *rows = done.out.splitlines()
    assert heading.split() == ["image", "label", "probability"]
    assert [row.split("  ")[0] for row in rows] == ["a picture.png", "", "other.png", ""]
    assert all(re.search(r"group/flowers:\d +[01]\.\d{3}$", row) for row in rows)
    assert max(map(len, done.out.splitlines())) <= 80


def test_or_in_json(ask: Run) -> None:
    done = ask("group/flowers", "a picture.png", "notes.png", "--json")
    found, bad = json.loads(done.out)
    assert found["image"] == "a picture.png" and len(found["predictions"]) == 3
    assert bad["image"] == "notes.png" and "PNG" in bad["error"]


COLUMNS = ["task", "state", "version", "classes", "size", "of its own", "why"]


def test_the_tasks_of_a_gateway_are_listed(run: Run, server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}"
    done = run("tasks", "--url", url)
    assert done.code == 0
    heading, *rows = done.out.splitlines()
    assert re.split("  +", heading.strip()) == COLUMNS
    listed = json.loads(run("tasks", "--url", url, "--json").out)
    assert [row.split()[0] for row in rows] == [task["id"] for task in listed] != []
    for name in COLUMNS[2:6]:  # numbers, to the right
        end = heading.index(name) + len(name)
        assert all(row[end - 1] != " " and row[end : end + 1].strip() == "" for row in rows), name


def test_all_pages_of_tasks_are_asked_for(run: Run, other: Any) -> None:
    other.answers = [
        (200, {}, {"tasks": [{"id": "a", "state": "ready"}], "next": "a"}),
        (200, {}, {"tasks": [{"id": "b", "state": "failed", "reason": "\x1b[31mwhy"}]}),
    ]
    done = run("tasks", "--url", f"http://127.0.0.1:{other.server_port}")
    assert done.code == 0 and r"\x1b[31mwhy" in done.out
    assert [line.split()[0] for line in done.out.splitlines()] == ["task", "a", "b"]


def test_a_picture_that_cannot_be_answered_leaves_the_others_alone(ask: Run) -> None:
    bad = ["notes.png", "large.png", "unreadable.png"]
    done = ask("group/flowers", *bad, "other.png")
    assert done.code == 1
    assert "other.png" in done.out
    lines = done.err.splitlines()
    assert len(lines) == len(bad) and all(line.startswith("error: ") for line in lines)
    for line, word in zip(lines, ("PNG", "MUNET_MAX_PIXELS", "Too many"), strict=True):
        assert word in line


@pytest.mark.parametrize(
    ("task", "words"),
    [("group/flower", "did you mean group/flowers?"), ("x?y/../#", "no task"), ("aaa", "no task")],
)
def test_a_task_that_there_is_not(ask: Run, task: str, words: str) -> None:
    done = ask(task, "a picture.png")
    assert (done.code, done.out) == (1, "")
    assert words in done.err and done.err.count("\n") == 1


AS_T = ("--task", "t")
ASKED = ["other.png", "--task", "flowers"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "flowers"], "SOURCE"),
        (["other.png"], "--task"),
        ([*ASKED, "--url", "127.0.0.1:3000"], "http://HOST:PORT"),
        ([*ASKED, "--url", "http://h:99999"], "http://HOST:PORT"),
        ([*ASKED, "--url", "http://me:secret@h"], "http://HOST:PORT"),
        ([*ASKED, "--top-k", "0"], "--top-k"),
        ([*ASKED, "--url", "http://h", "--store", "store"], "--url or --store"),
        ([*ASKED, "--out", "answers.xlsx"], ".parquet, .csv, .jsonl"),
        ([*ASKED, "--out", "other.csv", "missing.png"], "found nothing there"),
        ([*ASKED, "store"], "pictures"),
        ([*ASKED, "nul\0.png"], "nothing"),
    ],
)
def test_a_wrong_command_line(run: Run, arguments: list[str], words: str) -> None:
    done = run("classify", *arguments)
    assert done.code == 2 and words in done.err


@pytest.fixture
def unused() -> Iterator[int]:
    """A port that nobody listens on, and nobody else gets."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_what_has_no_end_is_not_read_to_it(
    run: Run, unused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "LARGEST_IMAGE", 3 << 20)
    done = run("classify", "--url", f"http://127.0.0.1:{unused}", *AS_T, "/dev/zero")
    assert done.code == 1 and "/dev/zero: expected a picture, found more than 3 MiB" in done.err


def test_a_gateway_that_is_not_there(run: Run, unused: int) -> None:
    done = run("classify", "--url", f"http://127.0.0.1:{unused}", *AS_T, "a picture.png")
    assert (done.code, done.out) == (1, "")
    assert f"127.0.0.1:{unused}" in done.err and "munet serve" in done.err


@pytest.fixture
def other() -> Iterator[Any]:
    with serving() as server:
        yield server


GOOD = {"task": "t", "version": 1, "predictions": [{"label": "a\x1b[2J\nb", "probability": 1}]}


def test_it_asks_again_when_the_gateway_says_so(run: Run, other: Any) -> None:
    again = {"retry_after": "0"}
    other.answers += [problem(503, "loading", **again), problem(429, "full", **again)]
    other.answers += [(200, {}, GOOD)]
    done = run("classify", "--url", f"http://127.0.0.1:{other.server_port}", *AS_T, "other.png")
    assert done.code == 0
    assert r"a\x1b[2J\nb" in done.out


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (problem(401, "A token is needed"), ["A token is needed", "set MUNET_TOKEN"]),
        (problem(503, "not soon", **{"retry_after": "900"}), ["not soon"]),
        (problem(504, "too late"), ["too late"]),
        ((404, {}, b"<html>no such page</html>"), ["something else"]),
        ((404, {}, {"detail": "Not Found"}), ["something else"]),
        ((200, {}, {"predictions": 3}), ["something else"]),
        ((200, {}, [1]), ["something else"]),
        ((302, {"location": "/"}, b""), ["something else"]),
    ],
)
def test_what_is_wrong_with_the_gateway_ends_it_and_shows_what_was_answered(
    run: Run, other: Any, answer: Any, words: list[str]
) -> None:
    other.answers += [(200, {}, GOOD), answer]
    url = f"http://127.0.0.1:{other.server_port}"
    done = run("classify", "--url", url, *AS_T, "other.png", "a picture.png", "other.png")
    assert done.code == 1
    assert "other.png" in done.out
    assert all(word in done.err for word in words)
    assert len(other.seen) == 2


def test_the_token_of_the_environment_is_sent(
    run: Run, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{other.server_port}/behind/a/proxy/"
    monkeypatch.setenv("MUNET_TOKEN", " secret-token\n")
    other.answers += [problem(401, "the token is not known here")]
    done = run("classify", "--url", url, *AS_T, "other.png")
    assert other.seen[0]["authorization"] == "Bearer secret-token"
    assert done.code == 1 and "secret-token" not in done.err + done.out
    assert "this gateway knows" in done.err
    monkeypatch.setenv("MUNET_TOKEN", "two\nlines")
    assert run("classify", "--url", url, *AS_T, "other.png").code == 2


@pytest.mark.parametrize("text", ["plain", "ünï côdé", "日本"])
def test_labels_are_shown_as_they_are(text: str) -> None:
    assert one_line(text) == text
