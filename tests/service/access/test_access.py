"""Tokens and private tasks: who gets an answer, and what the others can find out."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import socket
import threading
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest

from model_store import ModelStore
from service.access import Access, Grants, command
from service.errors import Forbidden, RateExceeded, SettingsError, Unauthenticated
from service.open_inference import inference_pb2 as pb
from service.open_inference.grpc_server import PREFIX
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.servers import Server
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S


def entry(name: str, token: str, scopes: str) -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[[token]]\nname = "{name}"\nsha256 = "{digest}"\n{scopes}\n'


TOKENS = (
    entry("fruit", "f", 'classify = ["fruit/*"]')
    + entry("all", "a", 'classify = ["*"]\nread = true')
    + entry("owner", "o", 'classify = ["*", "secret/one"]\nread = true')
    + entry("reader", "r", "read = true")
    + entry("boss", "b", "admin = true")
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    """A gateway with tokens, public tasks and private ones."""
    folder = tmp_path_factory.mktemp("guarded")
    store = ModelStore(folder / "store", create=True)
    publish(store, "fruit/apple")
    publish(store, "secret/one", private=True)
    publish(store, "secret/two", private=True)
    for number in range(3):
        publish(store, f"secret/open-{number}")
    (folder / "tokens.toml").write_text(TOKENS)
    made = Gateway(store, compilations, tokens=str(folder / "tokens.toml"))
    yield made
    made.close()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def classify(gateway: Gateway, task: str, token: str | None, query: str = "") -> httpx.Response:
    headers = {} if token is None else bearer(token)
    return gateway.classify(task, png(1), query, **headers)


@pytest.mark.parametrize("path", ["/classify/fruit/apple", "/classify?task=fruit/apple"])
def test_401_without_a_token_that_is_known(guarded: Gateway, path: str) -> None:
    for headers in ({}, bearer("x"), bearer(""), {"authorization": "Basic Zjpm"}, bearer("f f")):
        answer = guarded.request("POST", path, content=png(1), headers={**OCTETS, **headers})
        refused(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
    refused(guarded.request("GET", "/tasks"), 401, "unauthenticated")
    refused(guarded.request("GET", "/tasks/fruit/apple"), 401, "unauthenticated")
    allowed = guarded.request("POST", path, content=png(1), headers={**OCTETS, **bearer("f")})
    assert allowed.status_code == 200


def test_403_for_what_a_token_does_not_cover(guarded: Gateway) -> None:
    body = refused(classify(guarded, "secret/open-1", "f"), 403, "forbidden")
    assert "fruit" in body["detail"]
    assert refused(classify(guarded, "nowhere", "f"), 403, "forbidden")  # exists or not
    for path in ("/tasks", "/tasks/fruit/apple"):
        refused(guarded.request("GET", path, headers=bearer("f")), 403, "forbidden")
        assert guarded.request("GET", path, headers=bearer("r")).status_code == 200
    refused(classify(guarded, "fruit/apple", "r"), 403, "forbidden")
    refused(classify(guarded, "fruit/apple", "b"), 403, "forbidden")  # admin is no other scope


def test_health_and_metrics_need_no_token(guarded: Gateway) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/metrics"):
        assert guarded.request("GET", path).status_code == 200


def test_a_refused_request_loads_nothing(guarded: Gateway) -> None:
    publish(guarded.store, "cold/one")
    publish(guarded.store, "cold/two", private=True)
    refused(classify(guarded, "cold/one", "f"), 403, "forbidden")
    refused(classify(guarded, "cold/two", "a"), 404, "unknown-task")
    entries = guarded.app.state.runtime.catalog.entries()
    assert {entries[task].slot.state for task in ("cold/one", "cold/two")} == {"cold"}


def without(body: dict[str, Any], *names: str) -> str:
    text = str(body)
    for name in names:
        text = text.replace(name, "NAME")
    return text


@pytest.mark.parametrize("query", ["", "?version=1", "?version=7", "?version=stable"])
def test_a_private_task_looks_like_one_that_does_not_exist(guarded: Gateway, query: str) -> None:
    for hidden, missing in (("secret/one", "secret/uno"), ("secret/two", "secret/tow")):
        first = refused(classify(guarded, hidden, "a", query), 404, "unknown-task")
        second = refused(classify(guarded, missing, "a", query), 404, "unknown-task")
        assert without(first, hidden) == without(second, missing)
        assert sorted(first["nearest"]) == [f"secret/open-{number}" for number in range(3)]
        first = refused(guarded.request("GET", f"/tasks/{hidden}", headers=bearer("r")), 404,
                        "unknown-task")  # fmt: skip
        second = refused(guarded.request("GET", f"/tasks/{missing}", headers=bearer("r")), 404,
                         "unknown-task")  # fmt: skip
        assert without(first, hidden) == without(second, missing)


def test_a_private_task_answers_a_token_that_names_it(guarded: Gateway) -> None:
    assert classify(guarded, "secret/one", "o").status_code == 200
    refused(classify(guarded, "secret/two", "o"), 404, "unknown-task")  # a wildcard names nothing
    refused(classify(guarded, "secret/one", "a"), 404, "unknown-task")  # loaded by now
    shown = guarded.request("GET", "/tasks/secret/one", headers=bearer("o"))
    assert shown.json()["private"] is True


def test_lists_hold_only_what_a_token_may_know_of(guarded: Gateway) -> None:
    def names(token: str) -> set[str]:
        tasks = guarded.request("GET", "/tasks", headers=bearer(token)).json()["tasks"]
        return {task["id"] for task in tasks if task["id"].startswith("secret/")}

    opened = {f"secret/open-{number}" for number in range(3)}
    assert names("a") == names("r") == opened
    assert names("o") == {*opened, "secret/one"}


def test_what_hidden_tasks_share_is_not_told(guarded: Gateway) -> None:
    def sharing(token: str) -> int:
        task = guarded.request("GET", "/tasks/fruit/apple", headers=bearer(token)).json()
        return max(one["shared_with"] for one in task["components"])

    assert sharing("o") == sharing("r") + 1  # secret/one, but not secret/two


def test_an_index_is_refused_before_its_body_is_read(guarded: Gateway) -> None:
    answer = guarded.request("POST", "/v2/repository/index", content=b"no JSON")
    refused(answer, 401, "unauthenticated")


def test_a_private_parent_is_not_named(guarded: Gateway) -> None:
    path = publish(guarded.store, "fruit/child").path
    lineage = {"parent": None, "parent_task": "secret/one"}
    guarded.store.publish(replace(path, task="secret/child", lineage=lineage))
    guarded.store.rm("fruit/child")
    shown = "/tasks/secret/child"
    hidden = guarded.request("GET", shown, headers=bearer("a"))
    assert hidden.json()["parent"] is None
    assert "secret/one" not in hidden.text
    assert "secret/one" not in guarded.request("GET", "/tasks", headers=bearer("a")).text
    assert guarded.request("GET", shown, headers=bearer("o")).json()["parent"] == "secret/one"
    guarded.store.rm("secret/child")


def test_a_task_that_becomes_private_is_hidden_and_so_are_its_older_versions(
    guarded: Gateway,
) -> None:
    publish(guarded.store, "fruit/new")
    assert classify(guarded, "fruit/new", "a").status_code == 200
    publish(guarded.store, "fruit/new", private=True)

    async def hidden() -> None:
        catalog = guarded.app.state.runtime.catalog
        async with asyncio.timeout(PATIENCE_S):
            while (await catalog.slot("fruit/new")).version != 2:
                await asyncio.sleep(0.01)

    guarded.runner.run(hidden())
    for query in ("", "?version=1", "?version=2"):
        refused(classify(guarded, "fruit/new", "a", query), 404, "unknown-task")
    guarded.store.rm("fruit/new")


def test_without_tokens_private_tasks_and_admin_calls_are_off(gateway: Gateway) -> None:
    publish(gateway.store, "veiled", private=True)
    refused(gateway.classify("veiled", png(1)), 404, "unknown-task")
    assert "veiled" not in gateway.request("GET", "/tasks").text
    gateway.store.rm("veiled")
    with pytest.raises(Forbidden):
        gateway.app.state.runtime.access.grants([], "127.0.0.1").require_admin()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def granted(guard: Access, token: str | None) -> Grants:
    """What a request from elsewhere may do."""
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    return guard.grants(headers, "192.0.2.7", "http")


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


def look(guard: Access) -> None:
    """As its thread does each second."""
    assert guard._file is not None
    guard._file.look()


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
    """Whatever has taken its place, and however long its disk takes."""
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
    assert time.thread_time() - started < 1


def test_a_rate_lets_in_its_burst_and_then_so_many_a_second(tmp_path: Path) -> None:
    file, clock = tmp_path / "tokens.toml", Clock()
    file.write_text(entry("slow", "1", "rate = 0.5\nburst = 3") + entry("free", "2", ""))
    guard = Access(str(file), clock=clock)

    def let_in(token: str, requests: int = 10) -> int:
        count = 0
        for _ in range(requests):
            with suppress(RateExceeded):
                granted(guard, token)
                count += 1
        return count

    assert let_in("1") == 3
    with pytest.raises(RateExceeded, match="slow may make") as error:
        granted(guard, "1")
    assert error.value.retry_after_s == pytest.approx(2)
    assert let_in("2", 1000) == 1000
    for waited, wanted in ((1.9, 0), (0.1, 1), (4.0, 2), (1000.0, 3)):
        clock.now += waited
        assert let_in("1") == wanted
    file.write_text(entry("slow", "new", "rate = 0.5\nburst = 3\nread = true"))
    look(guard)
    assert let_in("new") == 0  # another secret and scope: the same bucket
    file.write_text(entry("slow", "new", "rate = 1\nburst = 4"))
    look(guard)
    assert let_in("new") == 4


def test_a_rate_holds_for_every_protocol_but_not_for_health_and_metrics(
    tmp_path: Path, compilations: str
) -> None:
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain")
    rate = "rate = 1e-6\nburst = 2\nclassify = ['*']\nread = true\nadmin = true"
    (tmp_path / "tokens.toml").write_text(entry("slow", "s", rate))
    gateway = Gateway(store, compilations, tokens=str(tmp_path / "tokens.toml"))
    guard = gateway.app.state.runtime.access

    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    try:
        for path in ("/livez", "/readyz", "/healthz", "/metrics") * 3:
            assert gateway.request("GET", path, headers=bearer("s")).status_code == 200
        assert classify(gateway, "plain", "s").status_code == 200
        assert gateway.request("GET", "/tasks", headers=bearer("s")).status_code == 200
        for method, path in (("POST", "/classify/plain"), ("POST", "/classify?task=plain"),
                             ("GET", "/tasks"), ("GET", "/tasks/plain"), ("GET", "/v2/models"),
                             ("POST", "/v2/models/plain/infer"), ("POST", "/v2/repository/index"),
                             ("POST", "/v2/repository/models/plain/load")):  # fmt: skip
            options = {"content": never()} if method == "POST" else {}
            answer = gateway.request(method, path, headers={**OCTETS, **bearer("s")}, **options)
            body = refused(answer, 429, "rate-exceeded")
            assert "slow may make" in body["detail"]
            assert 0 < int(answer.headers["retry-after"]) <= 1_000_000
        with pytest.raises(RateExceeded):
            guard.grants([(b"authorization", b"Bearer s")], "127.0.0.1")
        refused(gateway.request("GET", "/tasks", headers=bearer("x")), 401, "unauthenticated")
    finally:
        gateway.close()


def test_over_grpc_each_call_and_each_message_of_a_stream_counts(
    tmp_path: Path, compilations: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "tokens.toml").write_text(
        entry("calls", "c", "rate = 1e-6\nburst = 2\nread = true")
        + entry("stream", "s", "rate = 1e-6\nburst = 2\nclassify = ['*']")
    )
    store = ModelStore(tmp_path / "store", create=True)
    gateway = Gateway(store, compilations, tokens=str(tmp_path / "tokens.toml"), grpc_port=port)

    async def ask() -> tuple[list[Any], list[str]]:
        codes = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for _ in range(3):
                call = channel.unary_unary(f"{PREFIX}RepositoryIndex")
                try:
                    await call(b"", metadata=tuple(bearer("c").items()))
                    codes.append("OK")
                except grpc.aio.AioRpcError as error:
                    retry_after = dict(error.trailing_metadata() or ()).get("retry-after")
                    codes.append((error.code().name, retry_after))
            message = pb.ModelInferRequest(model_name="nothing").SerializeToString()
            stream = channel.stream_stream(f"{PREFIX}ModelStreamInfer")(
                iter([message] * 4), metadata=tuple(bearer("s").items())
            )
            answer = pb.ModelStreamInferResponse
            return codes, [answer.FromString(one).error_message async for one in stream]

    try:
        codes, said = gateway.runner.run(asyncio.wait_for(ask(), PATIENCE_S))
    finally:
        gateway.close()
    assert codes == ["OK", "OK", ("RESOURCE_EXHAUSTED", "1000000")]
    assert ["no task" in one for one in said] == [True, True, False, False]
    assert all("stream may make" in one for one in said[2:])


def test_a_stream_goes_by_the_tokens_of_each_message(tmp_path: Path, compilations: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path / "tokens.toml"
    file.write_text(entry("stream", "s", "classify = ['*']"))
    store = ModelStore(tmp_path / "store", create=True)
    gateway = Gateway(store, compilations, tokens=str(file), grpc_port=port)

    async def ask() -> list[str]:
        said, message = [], pb.ModelInferRequest(model_name="nothing").SerializeToString()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream = channel.stream_stream(f"{PREFIX}ModelStreamInfer")(
                metadata=tuple(bearer("s").items())
            )
            for _ in range(2):
                await stream.write(message)
                answer = pb.ModelStreamInferResponse.FromString(await stream.read())
                said.append(answer.error_message)
                file.write_text("")
                look(gateway.app.state.runtime.access)
            await stream.done_writing()
        return said

    try:
        said = gateway.runner.run(asyncio.wait_for(ask(), PATIENCE_S))
    finally:
        gateway.close()
    assert "no task" in said[0]
    assert said[1] == "the token is not known here"


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
