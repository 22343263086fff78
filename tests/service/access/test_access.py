"""What a token lets its bearer do, and see of private tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from model_store import ModelStore
from service.errors import Forbidden
from tests.service.access.tokens import TOKENS, bearer, classify
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S


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


@pytest.mark.parametrize(
    "path", ["/classify/fruit/apple", "/classify?task=fruit/apple", "/embed/fruit/apple"]
)
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
