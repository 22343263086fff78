"""Tokens and private tasks: who gets an answer, and what the others can find out."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store import ModelStore
from service import access
from service.access import LOOK_EVERY_S, Access
from service.errors import Forbidden, SettingsError, Unauthenticated
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
            while (await catalog.require("fruit/new")).slot.version != 2:
                await asyncio.sleep(0.01)

    guarded.runner.run(hidden())
    for query in ("", "?version=1", "?version=2"):
        refused(classify(guarded, "fruit/new", "a", query), 404, "unknown-task")
    guarded.store.rm("fruit/new")


def test_without_tokens_only_this_machine_is_answered(gateway: Gateway) -> None:
    def ask(path: str, peer: str | None, **headers: str) -> httpx.Response:
        async def send() -> httpx.Response:
            client = None if peer is None else (peer, 1234)
            transport = httpx.ASGITransport(gateway.app, client=client)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as asking:
                return await asking.get(path, headers=headers)

        return gateway.runner.run(send())

    for near in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"):
        assert ask("/tasks", near).status_code == 200
    far_away = ("10.0.0.1", "::ffff:10.0.0.1", "192.0.2.7", "localhost", "", "127.0.0.1.example")
    for far in (*far_away, None):
        body = refused(ask("/tasks", far), 403, "forbidden")
        assert "MUNET_TOKENS" in body["detail"]
        for path in ("/livez", "/readyz", "/metrics"):
            assert ask(path, far).status_code == 200
    # What came through a proxy is from elsewhere, whatever the headers claim.
    for header in ("x-forwarded-for", "forwarded", "x-real-ip"):
        assert ask("/tasks", "127.0.0.1", **{header: "127.0.0.1"}).status_code == 403
        assert ask("/tasks", "10.0.0.1", **{header: "127.0.0.1"}).status_code == 403


def test_without_tokens_private_tasks_and_admin_calls_are_off(gateway: Gateway) -> None:
    publish(gateway.store, "veiled", private=True)
    refused(gateway.classify("veiled", png(1)), 404, "unknown-task")
    assert "veiled" not in gateway.request("GET", "/tasks").text
    gateway.store.rm("veiled")
    with pytest.raises(Forbidden):
        gateway.app.state.runtime.access.grants(None, "127.0.0.1").require_admin()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_entry_for_requests_without_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text('[[token]]\nname = "anonymous"\nclassify = ["fruit/*"]\n' + TOKENS)
    guard = Access(str(file))
    found = guard.grants(None, "192.0.2.7", forwarded=True)
    found.require_classify("fruit/apple")
    with pytest.raises(Unauthenticated):  # a token might help
        found.require_classify("other")
    with pytest.raises(Unauthenticated):
        found.require_read()
    with pytest.raises(Unauthenticated):  # a wrong token is not the same as none
        guard.grants("Bearer x", None)
    with pytest.raises(Unauthenticated):
        guard.grants("Bearer ", None)


def test_admin_is_a_scope_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(TOKENS)
    guard = Access(str(file))
    guard.grants("Bearer b", None).require_admin()
    for token in "faor":
        with pytest.raises(Forbidden):
            guard.grants(f"Bearer {token}", None).require_admin()


def test_the_file_is_followed_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file, clock = tmp_path / "tokens.toml", Clock()
    file.write_text(entry("one", "1", "read = true"))
    guard = Access(str(file), clock=clock)

    def known() -> set[str]:
        found = set()
        for token in "123":
            with suppress(Unauthenticated):
                found.add(guard.grants(f"Bearer {token}", None).name)
        return found

    file.write_text(entry("one", "1", "") + entry("two", "2", ""))
    assert known() == {"one"}  # not looked at yet
    clock.now += LOOK_EVERY_S
    assert known() == {"one", "two"}
    for broken in ("[[token", "token = 3", entry("three", "3", "reed = true")):
        file.write_text(broken)
        clock.now += LOOK_EVERY_S
        assert known() == {"one", "two"}
    file.unlink()
    clock.now += LOOK_EVERY_S
    assert known() == {"one", "two"}
    file.write_text(entry("three", "3", ""))
    clock.now += LOOK_EVERY_S
    assert known() == {"three"}


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
        access.app(
            ["new", "shop", "--classify", "fruit/*", "--classify", "x", "--read"],
            standalone_mode=False,
        )
    token = err.getvalue().split()[-1]
    assert token not in out.getvalue()
    assert tomllib.loads(out.getvalue())["token"][0]["classify"] == ["fruit/*", "x"]
    file = tmp_path / "tokens.toml"
    file.write_text(out.getvalue())
    found = Access(str(file)).grants(f"Bearer {token}", "192.0.2.7")
    assert found == access.Grants("shop", ("fruit/*", "x"), read=True)
    assert found.sees("x", private=True)
    assert not found.sees("fruit/apple", private=True)
