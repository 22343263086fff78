"""The `munet` command: one for all packages, from any folder."""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from importlib import import_module
from pathlib import Path

import pytest
import typer.main

import munet
from service import VERSION

TOP = Path(__file__).parent.parent


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The command as `make install` makes it, next to a Python that there is."""
    binaries = tmp_path / "a venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (binaries / "python").chmod(0o755)
    made = tmp_path / "made"
    (made / "bin").mkdir(parents=True)
    (made / "installed").touch()
    (made / "bin/python").symlink_to(binaries / "python")
    subprocess.run(["make", "-s", f"VENV={made}", f"{made}/bin/munet"], cwd=TOP, check=True)
    return made / "bin/munet"


def terminal(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs something in a terminal of 80 columns."""
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_installed_command_is_the_module_from_any_folder_and_through_links(
    installed: Path, tmp_path: Path
) -> None:
    module = terminal(sys.executable, "-m", "munet", "--help", cwd=TOP)
    (tmp_path / "munet").symlink_to(installed)
    (tmp_path / "typer.py").write_text("raise SystemExit('a file of the folder was imported')")
    command = terminal(tmp_path / "munet", "--help", cwd=tmp_path)
    assert (command.returncode, command.stderr) == (0, "")
    assert command.stdout == module.stdout
    assert all(name in command.stdout for name in munet.COMMANDS)


@pytest.mark.parametrize("name", list(munet.COMMANDS))
def test_every_command_has_help_that_fits_80_columns(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = typer.main.get_command(import_module(munet.COMMANDS[name][0]).app)
    for sub in ["", *getattr(command, "commands", {})]:
        monkeypatch.setattr(sys, "argv", ["munet", name, *([sub] if sub else []), "--help"])
        with pytest.raises(SystemExit) as ended:
            munet.main()
        out, err = capsys.readouterr()
        assert (ended.value.code, err) == (0, "")
        assert f"Usage: munet {name}" in out
        assert max(map(len, out.splitlines())) <= 80


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        munet.app(["--version"], prog_name="munet")
    assert (ended.value.code, capsys.readouterr().out) == (0, f"munet {VERSION}\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("munet st", {"store"}),
        ("munet store p", {"pin", "pins", "promote", "push", "pull"}),
        (
            "munet experiments run mu2net-ch",
            {"mu2net-chars", "mu2net-chars5-published", "mu2net-chars5-tuned"},
        ),
        ("munet store ls --j", {"--json"}),
    ],
)
def test_a_shell_completes_commands_options_and_values(
    line: str,
    expected: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_MUNET_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    monkeypatch.setattr(sys, "argv", ["munet"])
    with pytest.raises(SystemExit):
        munet.main()
    told = capsys.readouterr()
    assert (set(told.out.split()), told.err) == (expected, "")


@pytest.mark.parametrize("library", ["optax", "evolution.nonsuch"])
def test_a_library_that_is_not_installed_is_named(
    library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a command loads it late. A module of ours that is missing is a fault of ours."""

    def run() -> None:
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    monkeypatch.setattr(munet, "app", lambda prog_name: run())
    with pytest.raises((SystemExit, ModuleNotFoundError)) as ended:
        munet.main()
    assert isinstance(ended.value, SystemExit) == (library == "optax")
    if library == "optax":
        assert ended.value.args == (1,)
        assert capsys.readouterr().err == (
            "error: this command needs optax, which is not installed\n"
            "install munet-gateway[train]\n"
        )


def test_the_page_of_commands_names_each_of_them_and_no_other() -> None:
    page = (TOP / "COMMANDS.md").read_text()
    rows = set(re.findall(r"^\| `munet ([a-z]+(?: [a-z-]+)?)", page, re.MULTILINE))
    known = set[str]()
    for name, (module, *_) in munet.COMMANDS.items():
        inner = getattr(typer.main.get_command(import_module(module).app), "commands", {})
        known |= {f"{name} {sub}" for sub, made in inner.items() if not made.hidden} or {name}
    assert rows - {"runs"} == known


def lists(name: str, sub: str) -> bool:
    return sub in {"ls", "show", "du", "history", "diff", "pins", "leaderboard"} or name == "tasks"


def test_what_lists_has_json() -> None:
    for name, (module, *_) in munet.COMMANDS.items():
        command = typer.main.get_command(import_module(module).app)
        for sub, made in (getattr(command, "commands", None) or {"": command}).items():
            if lists(name, sub):
                options = [text for one in made.params for text in one.opts]
                assert "--json" in options, f"munet {name} {sub}"


@pytest.mark.parametrize("meant", list(munet.COMMANDS))
def test_a_typo_is_told_what_was_meant(
    meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["munet", meant[:-1]])
    with pytest.raises(SystemExit) as ended:
        munet.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "Did you mean" in told and f"'{meant}'" in told
    assert len(told.splitlines()) <= 6


def test_the_store_s_commands_are_those_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where only the store is installed: in the image."""
    monkeypatch.setattr(sys, "argv", ["munet", "store", "ls", "--store", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        munet.main()
    mounted = capsys.readouterr()
    own = terminal(sys.executable, "-m", "model_store", "ls", "--store", str(tmp_path), cwd=TOP)
    assert ended.value.code == own.returncode == 1
    assert mounted.err == own.stderr and own.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ["No space left on device; make room"]),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), ["/x: Permission denied; name"]),
        (OSError("of our own\nin two lines"), ["of our own", "in two lines"]),
        (OSError("\x1b[31m\u202e.png\x07"), [r"\x1b[31m\u202e.png\x07"]),
        (OSError("\n".join("123456789")), list("12345")),
    ],
)
def test_an_error_says_what_to_do_and_nothing_to_the_terminal(
    error: OSError, told: list[str]
) -> None:
    lines = munet.message_of(error)
    assert lines[0].startswith("error: ") and len(lines) == len(told)
    for line, start in zip(lines, told, strict=True):
        assert line.removeprefix("error: ").startswith(start)


def test_a_name_is_told_to_the_letter_though_it_is_that_of_an_emoji(tmp_path: Path) -> None:
    name = "a:two:b[red]c"
    done = terminal(sys.executable, "-m", "munet", "store", "ls", "--store", name, cwd=TOP)
    assert done.returncode == 1 and name in done.stderr


def test_no_console_makes_something_else_of_a_name() -> None:
    """Rich shows `:two:` as an emoji unless it is told not to."""
    folders = ("evolution", "loadtests", "model_store", "service")
    files = [*TOP.glob("*.py"), *(f for name in folders for f in TOP.glob(f"{name}/**/*.py"))]
    consoles = [
        (file, node)
        for file in files
        if "Console" in (text := file.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Console"
    ]
    assert consoles
    for file, node in consoles:
        told = {one.arg: ast.unparse(one.value) for one in node.keywords}
        assert told.get("emoji") == "False", f"{file}, line {node.lineno}"


@pytest.mark.parametrize("columns", [40, 300])
def test_a_message_is_broken_between_words_on_a_terminal(
    columns: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["munet", "store", "ls", "--store", str(tmp_path / "nothing there")]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | {
        "TERM": "xterm",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=TOP, env=environment, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode().replace("\r", "")
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        munet.main()
    piped = capsys.readouterr().err  # no terminal
    assert done.returncode == 1 and shown.split() == piped.split()
    assert max(len(line) for line in shown.splitlines() if " " in line.strip()) <= min(columns, 100)
    assert len(piped.splitlines()) == 1


def test_help_and_mistakes_load_no_package() -> None:
    code = (
        "import sys, munet\n"
        "sys.argv = ['munet', sys.argv[1]]\n"
        "try: munet.main()\n"
        "finally: print({'evolution', 'service', 'model_store', 'jax'} & set(sys.modules))\n"
    )
    for argument in ("--help", "stor"):
        done = terminal(sys.executable, "-c", code, argument, cwd=TOP)
        assert done.stdout.endswith("set()\n")


@pytest.mark.parametrize("set_to", [None, "3"])
def test_numpy_has_one_thread_unless_the_user_says_so(
    monkeypatch: pytest.MonkeyPatch, set_to: str | None
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", set_to or "")
    if set_to is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    found: list[str] = []
    monkeypatch.setattr(munet, "app", lambda **_: found.append(os.environ["OPENBLAS_NUM_THREADS"]))
    munet.main()
    assert found == [set_to or "1"]
