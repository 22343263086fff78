"""Tasks with several labels a picture, next to others: each label has a probability of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model_store import ModelStore
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.systems import TINY, multipath, png, publish
from tests.service.waiting import eventually

LABELS = 12
SIGMOID = {"activation": "sigmoid"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    """One task of each kind, and one of several paths; all share a stem and blocks."""
    store = ModelStore(tmp_path_factory.mktemp("kinds"), create=True)
    arch = replace(TINY, num_classes=LABELS)
    plain, tags = publish(store, "plain", arch), publish(store, "tags", arch, extra=SIGMOID)
    store.publish(replace(multipath(store, "mixed", [tags, plain]), extra=SIGMOID))
    publish(store, "unknown", extra={"activation": "tanh"})
    made = Gateway(store, compilations)
    for task in ("plain", "tags", "mixed"):  # compiling may take longer than a request
        eventually(lambda task=task: made.classify(task, png(1)).status_code == 200)
    yield made
    made.close()


def listed(gateway: Gateway, task: str, query: str = "", seed: int = 1) -> list[dict[str, Any]]:
    answer = gateway.classify(task, png(seed), query)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def infer(gateway: Gateway, task: str, **output: Any) -> list[dict[str, Any]]:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 16, 16, 3))
    sent = {"name": "pixels", "shape": [2, 16, 16, 3], "datatype": "UINT8", "data": pixels.tolist()}
    wanted = [{"name": name, "parameters": output} for name in ("probabilities", "logits")]
    body = {"inputs": [sent], "outputs": wanted}
    answer = gateway.request("POST", f"/v2/models/{task}/infer", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"]


@pytest.mark.parametrize("task", ["tags", "mixed"])
def test_every_label_is_answered_with_a_probability_of_its_own(gateway: Gateway, task: str) -> None:
    found = listed(gateway, task)
    assert sorted(one["index"] for one in found) == list(range(LABELS))
    odds = [one["probability"] for one in found]
    assert odds == sorted(odds, reverse=True)
    assert abs(sum(odds) - 1) > 0.5, "they are no softmax"
    assert all(one["label"] == f"tags:{one['index']}" for one in found)
    assert [float(np.float32(p)) for p in odds] == odds
    assert listed(gateway, task, "?top_k=3") == found[:3]
    assert listed(gateway, task, "?label=tags:0&label=tags:3") == found


@pytest.mark.parametrize("task", ["tags", "mixed"])
def test_probabilities_are_the_sigmoids_of_the_logits(gateway: Gateway, task: str) -> None:
    odds, logits = (np.array(one["data"], np.float64) for one in infer(gateway, task))
    np.testing.assert_allclose(odds, 1 / (1 + np.exp(-logits)), rtol=1e-6)


def test_the_classification_output_lists_them_too(gateway: Gateway) -> None:
    odds = np.array(infer(gateway, "tags")[0]["data"]).reshape(2, LABELS)
    texts = infer(gateway, "tags", classification=4)[0]["data"]
    for row, four in zip(odds, np.reshape(texts, (2, 4)), strict=True):
        for text, index in zip(four, np.argsort(-row, kind="stable"), strict=False):
            value, number, label = text.split(":", 2)
            assert (int(number), label) == (index, f"tags:{index}")
            assert float(value) == pytest.approx(row[index], rel=1e-6)


def test_a_task_of_one_class_a_picture_stays_as_it_is(gateway: Gateway) -> None:
    assert len(listed(gateway, "plain")) == 5
    odds = [one["probability"] for one in listed(gateway, "plain", f"?top_k={LABELS}")]
    assert len(odds) == LABELS and sum(odds) == pytest.approx(1)


@pytest.mark.parametrize("task", ["plain", "tags"])
def test_less_probable_classes_are_not_listed(gateway: Gateway, task: str) -> None:
    every = listed(gateway, task, f"?top_k={LABELS}")
    for bound in [one["probability"] for one in every] + [0.0, 1.0, 1e-300]:
        found = listed(gateway, task, f"?top_k={LABELS}&min_probability={bound!r}")
        assert found == [one for one in every if one["probability"] >= bound]
    assert listed(gateway, task, "?min_probability=1") == []
    fourth = every[3]["probability"]
    assert listed(gateway, task, f"?top_k=2&min_probability={fourth!r}") == every[:2]
    assert listed(gateway, task, "?min_probability=0") == listed(gateway, task)


@pytest.mark.parametrize("task", ["plain", "tags"])
def test_an_answer_says_whether_it_abstained(gateway: Gateway, task: str) -> None:
    best = listed(gateway, task)[0]["probability"]
    for bound, abstained in ((best, False), (min(1.0, best * 1.01), True)):
        answer = gateway.classify(task, png(1), f"?min_probability={bound!r}").json()
        assert answer["abstained"] is abstained and bool(answer["predictions"]) is not abstained
    assert "abstained" not in gateway.classify(task, png(1)).json()


@pytest.mark.parametrize(
    "bound", ["0", "1", "0.5", ".5", "1.", "1e-3", "5E-1", "0.00", "000", "1e-999"]
)
def test_what_is_a_probability(gateway: Gateway, bound: str) -> None:
    expected = [p for p in listed(gateway, "tags") if p["probability"] >= float(bound)]
    assert listed(gateway, "tags", f"?min_probability={bound}") == expected


@pytest.mark.parametrize("bound", [
    "-0.1", "1.1", "2", "nan", "inf", "-inf", "", ".", "e-1", "1e", "five", "0,5", "50%25",
    "%200.5", "+0.5", "0x1", "1_0", "1e5", "1e999", "%D9%A3", "0." + "5" * 5000, "%00", "0.5%0A",
])  # fmt: skip
def test_what_is_no_probability_is_told_so(gateway: Gateway, bound: str) -> None:
    query = f"?min_probability={bound}"
    body = refused(gateway.classify("tags", png(1), query), 422, "bad-parameter")
    assert body["detail"].startswith("min_probability: expected a number from 0 to 1, found ")
    assert len(body["detail"]) < 120


def test_a_bound_given_twice_or_misspelt_is_refused(gateway: Gateway) -> None:
    for query, says in (
        ("?min_probability=0&min_probability=1", "twice"),
        ("?min_prob=0", "did you mean min_probability"),
    ):
        body = refused(gateway.classify("tags", png(1), query), 422, "bad-parameter")
        assert says in body["detail"]


def test_one_picture_may_be_asked_about_by_both_kinds(gateway: Gateway) -> None:
    path = "/classify?task=plain&task=tags&task=mixed&task=unknown&min_probability=0.01"
    answer = gateway.request("POST", path, content=png(2), headers=OCTETS).json()["results"]
    for one, task in zip(answer, ("plain", "tags", "mixed"), strict=False):
        alone = listed(gateway, task, "?min_probability=0.01", seed=2)
        assert [p["label"] for p in one["predictions"]] == [p["label"] for p in alone]
        assert [p["probability"] for p in one["predictions"]] == pytest.approx(
            [p["probability"] for p in alone], abs=1e-5
        )
    assert answer[3]["problem"]["status"] == 503


def test_tasks_tell_their_kind(gateway: Gateway) -> None:
    known = {one["id"]: one["activation"] for one in gateway.get("/tasks")["tasks"]}
    assert known == {"plain": "softmax", "tags": "sigmoid", "mixed": "sigmoid", "unknown": None}
    assert gateway.get("/tasks/tags")["activation"] == "sigmoid"
    told = gateway.get("/v2/models/tags/config")["parameters"]["activation"]
    assert told == {"string_value": "sigmoid"}
    schema = gateway.get("/openapi.json")
    assert "sigmoid" in schema["components"]["schemas"]["Task"]["properties"]["activation"]["enum"]
    for path in ("/classify", "/classify/{task}"):
        names = [one["name"] for one in schema["paths"][path]["post"]["parameters"]]
        assert "min_probability" in names


def test_the_quality_of_either_kind_is_told(gateway: Gateway) -> None:
    metrics = {"validation": {"mean_average_precision": 0.25, "positives": [1]}}
    store, tags = gateway.store, gateway.store.resolve("tags").path
    store.publish(replace(tags, metrics=metrics))
    eventually(lambda: gateway.get("/tasks/tags")["quality"] == {"validation": 0.25})
    assert gateway.get("/tasks/plain")["quality"] == {"validation": 0.5}


def test_an_activation_of_later_days_is_not_guessed_at(gateway: Gateway) -> None:
    body = refused(gateway.classify("unknown", png(1)), 503, "unavailable")
    assert "activation: expected one of softmax, sigmoid, found 'tanh'" in body["detail"]
    assert "update the gateway" in body["detail"]
