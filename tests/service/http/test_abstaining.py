"""A task's own least probability: it holds where a request names none, in every gateway at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from model_store import ModelStore
from service.request import Request
from tests.service.in_process import OCTETS, Gateway
from tests.service.systems import png, publish
from tests.service.waiting import eventually


@pytest.fixture(scope="module")
def gateways(
    tmp_path_factory: pytest.TempPathFactory, compilations: str
) -> Iterator[tuple[Gateway, Gateway]]:
    store = ModelStore(tmp_path_factory.mktemp("abstaining"), create=True)
    for task in ("strict", "other"):
        publish(store, task)
    made = [Gateway(store, compilations) for _ in range(2)]
    for one in made:
        for task in ("strict", "other"):
            eventually(lambda one=one, task=task: one.classify(task, png(1)).status_code == 200)
    yield made[0], made[1]
    for one in made:
        one.close()


def ask(gateway: Gateway, task: str = "strict", query: str = "") -> dict[str, Any]:
    response = gateway.classify(task, png(1), query)
    assert response.status_code == 200, response.text
    return response.json()


def test_it_holds_in_every_gateway_until_it_is_set_again(
    gateways: tuple[Gateway, Gateway],
) -> None:
    store = gateways[0].store
    best = ask(gateways[0])["predictions"][0]["probability"]
    store.set_min_probability("strict", min(1.0, best * 1.01))
    for gateway in gateways:
        eventually(lambda gateway=gateway: ask(gateway).get("abstained") is True)
        assert ask(gateway)["predictions"] == []
        assert ask(gateway, query="?version=1")["abstained"]
        assert "abstained" not in ask(gateway, "other")
        assert gateway.get("/tasks/strict")["min_probability"] == min(1.0, best * 1.01)
        assert gateway.get("/tasks/other")["min_probability"] == 0
    store.set_min_probability("strict", best * 0.99)
    for gateway in gateways:
        eventually(lambda gateway=gateway: ask(gateway).get("abstained") is False)
        assert len(ask(gateway)["predictions"]) == 1
    store.set_min_probability("strict", 0)
    for gateway in gateways:
        eventually(lambda gateway=gateway: "abstained" not in ask(gateway))
        assert len(ask(gateway)["predictions"]) == 3


def test_a_request_overrides_it(gateways: tuple[Gateway, Gateway]) -> None:
    gateway = gateways[0]
    gateway.store.set_min_probability("strict", 1.0)
    eventually(lambda: ask(gateway).get("abstained") is True)
    every = ask(gateway, query="?min_probability=0")
    assert len(every["predictions"]) == 3 and "abstained" not in every
    assert ask(gateway, query="?min_probability=0.001")["abstained"] is False
    assert ask(gateway, query="?top_k=2")["abstained"] is True
    both = gateway.request(
        "POST", "/classify?task=strict&task=other", content=png(1), headers=OCTETS
    )
    assert [one.get("abstained") for one in both.json()["results"]] == [True, None]
    embedded = gateway.request("POST", "/embed/strict", content=png(1), headers=OCTETS)
    assert len(embedded.json()["features"]) == 32
    gateway.store.set_min_probability("strict", 0)


def test_an_abstention_is_an_answer(
    gateways: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, counted = gateways[0], list[Request]()
    gateway.store.set_min_probability("strict", 1.0)
    eventually(lambda: ask(gateway).get("abstained") is True)
    monkeypatch.setattr(gateway.app.state.runtime, "counters", (counted.append,))
    ask(gateway)
    assert [(one.outcome, one.rows) for one in counted] == [("answered", 1)]
    gateway.store.set_min_probability("strict", 0)
