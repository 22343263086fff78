"""Names that look like what follows a name: a path reaches the model that it was made for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.routing import Match

from model_store import ModelStore
from service.open_inference.model_paths import READINGS
from service.open_inference.rest import (
    ROUTES,
    all_statistics,
    load,
    metadata,
    model_infer,
    model_ready,
    statistics,
    unload,
)
from service.open_inference.rest import config as model_config
from tests.service.in_process import OCTETS, Gateway
from tests.service.systems import png, publish
from tests.service.waiting import eventually

SEGMENTS = ["a", "versions", "1", "infer", "ready", "config", "stats", "load", "unload", "index"]
SEGMENTS += ["models", "repository"]
NAMES = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5).map("/".join)
VERSIONS = st.sampled_from(["", "1", "ready", "stable", "versions", "infer", "stats"])
CALLS = {
    "/infer": ("POST", model_infer),
    "/ready": ("GET", model_ready),
    "/config": ("GET", model_config),
    "/stats": ("GET", statistics),
    "": ("GET", metadata),
}


def reached(method: str, raw: str, path: str) -> tuple[Any, dict[str, str], tuple[str, ...]]:
    """The handler that a path comes to, its parameters, and what else it may be about."""
    scope: Any = {"type": "http", "method": method, "path": path, "raw_path": raw.encode()}
    for route in ROUTES:
        match, child = route.matches(scope)
        if match is Match.FULL:
            handler = getattr(route.endpoint, "respond", route.endpoint)
            return handler, child["path_params"], child.get(READINGS, ())
    raise AssertionError(f"no route for {method} {path}")


@settings(max_examples=500)
@given(NAMES, VERSIONS, st.sampled_from(sorted(CALLS)), st.booleans())
def test_a_path_reaches_its_model_or_knows_of_it(
    name: str, version: str, call: str, quoted: bool
) -> None:
    method, handler = CALLS[call]
    rest = (f"/versions/{version}" if version else "") + call
    path = f"/v2/models/{name}{rest}"
    raw = f"/v2/models/{quote(name, safe='')}{rest}" if quoted else path
    endpoint, found, others = reached(method, raw, path)
    if endpoint is all_statistics:  # which no model's name can be told from
        assert (name, rest) == ("stats", "")
    elif found.get("model") == name and not (quoted and "/" in name):
        assert (endpoint, found.get("version", "")) == (handler, version) or name in others
    elif quoted and "/" in name:
        assert (endpoint, found["model"], found.get("version", "")) == (handler, name, version)
        assert not others
    else:
        assert name in others


@given(NAMES, st.sampled_from([("/load", load), ("/unload", unload)]), st.booleans())
def test_loading(name: str, call: tuple[str, Any], quoted: bool) -> None:
    path = f"/v2/repository/models/{name}{call[0]}"
    raw = path.replace(name + call[0], quote(name, safe="") + call[0]) if quoted else path
    endpoint, found, _ = reached("POST", raw, path)
    assert (endpoint, found["model"]) == (call[1], name)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    """With a model whose name is a path of another's version 1, and hidden ones like that."""
    store = ModelStore(tmp_path_factory.mktemp("store"), create=True)
    publish(store, "public/a")
    publish(store, "public/a/versions/1", own={"head": 7})
    publish(store, "public/b")
    publish(store, "public/b/versions/1", own={"head": 7}, private=True)
    publish(store, "public/b/ready", own={"head": 7}, private=True)
    made = Gateway(store, compilations)
    eventually(lambda: made.classify("public/a", png(1)).status_code == 200)
    yield made
    made.close()


def infer(gateway: Gateway, path: str) -> Any:
    headers = {**OCTETS, "inference-header-content-length": "0"}
    return gateway.request("POST", f"/v2/models/{path}/infer", content=png(1), headers=headers)


def test_no_model_answers_for_another(gateway: Gateway) -> None:
    for path in ("", "/ready", "/config", "/stats"):
        answer = gateway.request("GET", f"/v2/models/public/a/versions/1{path}")
        assert answer.status_code == 400 and "%2F" in answer.json()["detail"]
    assert infer(gateway, "public/a/versions/1").status_code == 400
    for name, path in (
        ("public/a", "public%2Fa/versions/1"),
        ("public/a", "public/a"),
        ("public/a/versions/1", "public%2Fa%2Fversions%2F1"),
        ("public/a/versions/1", "public%2fa%2Fversions%2f1/versions/1"),
        ("public/a/versions/1", "public/a/versions/1/versions/1"),
    ):
        answer = eventually(
            lambda path=path: (
                found if (found := infer(gateway, path)).status_code == 200 else None
            )
        )
        assert answer.json()["model_name"] == name
        assert gateway.get(f"/v2/models/{path}/config")["name"] == name


def test_hidden_models_change_no_path(gateway: Gateway) -> None:
    assert infer(gateway, "public/b/versions/1").json()["model_name"] == "public/b"
    assert gateway.get("/v2/models/public/b/ready") == {"name": "public/b", "ready": True}
