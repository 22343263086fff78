"""The file of tokens: what may be in it, and how it is followed."""

from __future__ import annotations

import io
import os
import socket
import threading
import time
import tomllib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest

from model_store import ModelStore
from service.access import Access, Grants, command
from service.errors import Forbidden, SettingsError, Unauthenticated
from tests.service.access.tokens import TOKENS, Clock, entry, granted, look
from tests.service.servers import Server
from tests.service.waiting import PATIENCE_S


def test_an_entry_for_requests_without_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text('[[token]]\nname = "anonymous"\nclassify = ["fruit/*"]\n' + TOKENS)
    guard = Access(str(file))
    found = granted(guard, None)
    found.require_classify("fruit/apple")
    with pytest.raises(Unauthenticated):  # a token might help
        found.require_classify("other")
    with pytest.raises(Unauthenticated):
        found.require_read()
    with pytest.raises(Unauthenticated):  # a wrong token is not the same as none
        granted(guard, "x")
    with pytest.raises(Unauthenticated):
        granted(guard, "")


def test_admin_is_a_scope_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(TOKENS)
    guard = Access(str(file))
    granted(guard, "b").require_admin()
    for token in "faor":
        with pytest.raises(Forbidden):
            granted(guard, token).require_admin()


def known(guard: Access, tokens: str = "123") -> set[str]:
    found = set()
    for token in tokens:
        with suppress(Unauthenticated):
            found.add(granted(guard, token).name)
    return found


def test_the_file_is_followed_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, clock = tmp_path / "tokens.toml", Clock()
    file.write_text(entry("one", "1", "read = true"))
    guard = Access(str(file), clock=clock)
    file.write_text(entry("one", "1", "") + entry("two", "2", ""))
    assert known(guard) == {"one"}  # not looked at yet
    look(guard)
    assert known(guard) == {"one", "two"}
    for seconds, broken in enumerate(("[[token", "token = 3", entry("three", "3", "reed = true"))):
        file.write_text(broken)
        clock.now += 1
        caplog.clear()
        for _ in range(3):
            look(guard)
        assert known(guard) == {"one", "two"}
        assert guard.tokens_age_s == seconds + 1
        assert len([line for line in caplog.messages if "tokens_unusable" in line]) == 1
    file.unlink()
    look(guard)
    assert known(guard) == {"one", "two"}
    file.write_text(entry("three", "3", ""))
    look(guard)
    assert known(guard) == {"three"}
    assert guard.tokens_age_s == 0


def test_a_request_never_reads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where anything has taken its place, and however long its disk takes."""
    file = tmp_path / "tokens.toml"
    file.write_text(entry("one", "1", ""))
    guard = Access(str(file))
    hanging, entered = threading.Event(), threading.Event()

    def hang(*_: object) -> int:
        entered.set()
        hanging.wait(PATIENCE_S)
        raise OSError("gone")

    monkeypatch.setattr("service.access.token_file.LOOK_EVERY_S", 0.001)
    monkeypatch.setattr("service.access.plain_files.os.open", hang)
    guard.start()
    try:
        assert entered.wait(PATIENCE_S)
        assert known(guard) == {"one"}
        guard.stop()  # nor does the end wait for it
    finally:
        hanging.set()


def test_what_is_no_plain_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"

    def fifo() -> None:
        os.mkfifo(file)

    def huge() -> None:
        file.write_text(entry("one", "1", ""))
        os.truncate(file, 1 << 40)  # takes no room

    makers: list[Callable[[], object]] = [
        fifo,
        huge,
        file.mkdir,
        lambda: file.symlink_to("/dev/zero"),
        lambda: file.symlink_to("/dev/tty"),
        lambda: file.symlink_to(file),
        lambda: socket.socket(socket.AF_UNIX).bind(str(file)),
        lambda: file.write_text("a = " + "[" * 100_000),
        lambda: file.write_text("a = " + "{a=" * 100_000),
        lambda: file.write_text("a." * 400_000 + "b = 1"),  # takes hours and all memory
        lambda: file.write_text('"a" . ' * 100_000 + "b = 1"),
        lambda: file.write_text("[" + "a." * 400_000 + "b]"),
        lambda: file.write_text('[[token]]\nname = "#"\n' + "'a'." * 100_000 + "b = 1"),
    ]
    file.write_text(entry("one", "1", ""))
    guard = Access(str(file))
    for make in makers:
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
        make()
        look(guard)
        assert known(guard) == {"one"}
        with pytest.raises(SettingsError, match="MUNET_TOKENS must be a TOML file"):
            Access(str(file))


def test_thousands_of_tokens_and_patterns_cost_a_request_little(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    many = "".join(entry(f"t{i}", str(i), "") for i in range(5000))
    patterns = [f"group-{i}/*" for i in range(3000)] + ["*a" * 40 + "b", "?" * 150, "[" * 30]
    file.write_text(many + entry("all", "all", f"classify = {[*patterns, 'staff/id']}"))
    guard = Access(str(file))
    started = time.thread_time()
    for name in ("group-2999/x", "staff/id"):
        granted(guard, "all").require_classify(name)
    for name in ("a" * 200, "a" * 100_000, "x/y"):
        with pytest.raises(Forbidden):
            granted(guard, "all").require_classify(name)
    assert granted(guard, "4999").name == "t4999"
    assert not granted(guard, "all").sees("group-1/x", private=True)
    assert granted(guard, "all").sees("staff/id", private=True)
    assert time.thread_time() - started < 20  # some milliseconds; a backtracking pattern took hours


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[[token]", "TOML"),
        ("port = 1", "nothing but tables"),
        ("token = 1", "nothing but tables"),
        ("token = [1]", "expected tables"),
        ('[[token]]\nname = "a b"', "name must be"),
        ('[[token]]\nname = "a"', "64 hexadecimal"),
        ('[[token]]\nname = "a"\nsha256 = "ABC"', "64 hexadecimal"),
        (entry("anonymous", "x", ""), "has no sha256"),
        (entry("a", "x", 'classify = "*"'), "list of patterns"),
        (entry("a", "x", "read = 1"), "true or false"),
        (entry("a", "x", 'token = "x"'), "expected name"),
        (entry("a", "x", "") + entry("a", "y", ""), "same name"),
        (entry("a", "x", "") + entry("b", "x", ""), "same sha256"),
        (entry("a", "x", "rate = 0"), "above zero"),
        (entry("a", "x", "rate = -1.5"), "above zero"),
        (entry("a", "x", "rate = nan"), "above zero"),
        (entry("a", "x", "rate = inf"), "above zero"),
        (entry("a", "x", "rate = true"), "requests per second"),
        (entry("a", "x", "rate = '5'"), "requests per second"),
        (entry("a", "x", "rate = 1\nburst = 0"), "whole number"),
        (entry("a", "x", "rate = 1\nburst = 1.5"), "whole number"),
        (entry("a", "x", "burst = 1"), "goes with a rate"),
        (b"\xff", "utf-8"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_error(
    tmp_path: Path, content: str | bytes | None, reason: str
) -> None:
    file = tmp_path / "tokens.toml"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SettingsError, match="MUNET_TOKENS must be a TOML file") as error:
        Access(str(file))
    assert str(file) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_server_does_not_start_with_a_broken_file(tmp_path: Path) -> None:
    ModelStore(tmp_path / "store", create=True)
    (tmp_path / "tokens.toml").write_text("[[token")
    variables = {
        "MUNET_STORE": str(tmp_path / "store"),
        "MUNET_TOKENS": str(tmp_path / "tokens.toml"),
    }
    server = Server(".", tmp_path / "home", **variables)
    try:
        assert server.process.wait(PATIENCE_S) == 2
    finally:
        server.__exit__(None, None, None)
    errors = [line for line in server.log.read_text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "MUNET_TOKENS" in errors[0]


def test_the_command_prints_a_token_and_an_entry_that_works(tmp_path: Path) -> None:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        command.app(
            ["new", "shop", "--classify", "fruit/*", "--classify", "x", "--read"],
            standalone_mode=False,
        )
    token = err.getvalue().split()[-1]
    assert token not in out.getvalue()
    assert tomllib.loads(out.getvalue())["token"][0]["classify"] == ["fruit/*", "x"]
    file = tmp_path / "tokens.toml"
    file.write_text(out.getvalue())
    found = granted(Access(str(file)), token)
    assert found == Grants("shop", ("fruit/*", "x"), read=True)
    assert found.sees("x", private=True)
    assert not found.sees("fruit/apple", private=True)
