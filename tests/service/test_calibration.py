"""Probabilities are of the logits divided by the temperature of the version that answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model_store import ModelStore, Rollout, Rules
from tests.service.in_process import Gateway, refused
from tests.service.systems import TINY, multipath, png, publish
from tests.service.waiting import eventually

WARM, COLD = 2.5, 0.4
ARCH = replace(TINY, num_classes=6)
OUTPUTS = ("probabilities", "logits", "calibrated")
TASKS = {"plain": 1.0, "warm": WARM, "tags": COLD, "mixed": 3}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    """A task without a temperature; others with one: of classes, of labels, of several paths."""
    store = ModelStore(tmp_path_factory.mktemp("kinds"), create=True)
    plain = publish(store, "plain", ARCH)
    warm = publish(store, "warm", ARCH, extra={"temperature": WARM})
    publish(store, "tags", ARCH, extra={"activation": "sigmoid", "temperature": COLD})
    store.publish(replace(multipath(store, "mixed", [warm, plain]), extra={"temperature": 3}))
    publish(store, "wrong", ARCH, extra={"temperature": -1})
    made = Gateway(store, compilations)
    for task in TASKS:  # compiling may take longer than a request
        eventually(lambda task=task: made.classify(task, png(1)).status_code == 200)
    yield made
    made.close()


def outputs(gateway: Gateway, task: str, *names: str, **headers: str) -> dict[str, np.ndarray]:
    """What the other protocol answers for the same picture, by output."""
    parameters = {"binary_data_size": len(png(1)) + 4}
    sent = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": parameters}
    body: dict[str, Any] = {"inputs": [sent]}
    if names:
        body["outputs"] = [{"name": name} for name in names]
    head = json.dumps(body).encode()
    data = len(png(1)).to_bytes(4, "little") + png(1)
    headers = {"inference-header-content-length": str(len(head)), **headers}
    path = f"/v2/models/{task}/infer"
    answer = gateway.request("POST", path, content=head + data, headers=headers)
    assert answer.status_code == 200, answer.text
    return {one["name"]: np.array(one["data"], np.float64) for one in answer.json()["outputs"]}


def listed(gateway: Gateway, task: str, query: str = "") -> np.ndarray:
    """The probabilities of all classes, by index."""
    answer = gateway.classify(task, png(1), f"?top_k=6{query}")
    assert answer.status_code == 200, answer.text
    found = {one["index"]: one["probability"] for one in answer.json()["predictions"]}
    return np.array([found[index] for index in range(6)])


def expected(task: str, logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits / temperature
    odds = np.exp(scaled)
    return 1 / (1 + np.exp(-scaled)) if task == "tags" else odds / odds.sum()


@pytest.mark.parametrize("task", TASKS)
def test_answers_have_it_in_every_protocol_and_older_outputs_do_not(
    gateway: Gateway, task: str
) -> None:
    found = outputs(gateway, task, *OUTPUTS)
    logits, temperature = found["logits"], TASKS[task]
    np.testing.assert_allclose(listed(gateway, task), expected(task, logits, temperature), 1e-5)
    np.testing.assert_allclose(found["calibrated"], expected(task, logits, temperature), 1e-5)
    np.testing.assert_allclose(found["probabilities"], expected(task, logits, 1.0), 1e-5)
    if temperature != 1:
        assert abs(found["calibrated"] - found["probabilities"]).max() > 0.01
    order = np.argsort(-found["probabilities"])
    assert (np.argsort(-found["calibrated"]) == order).all(), "the order is the same"


def test_who_names_no_outputs_gets_those_of_before(gateway: Gateway) -> None:
    usual = outputs(gateway, "warm")
    assert list(usual) == ["probabilities", "logits"]
    for name, values in outputs(gateway, "warm", *OUTPUTS).items():
        assert name == "calibrated" or (values == usual[name]).all()
    told = [one["name"] for one in gateway.get("/v2/models/warm")["outputs"]]
    assert told[:3] == list(OUTPUTS)


def test_a_version_without_one_answers_as_if_it_were_1(gateway: Gateway) -> None:
    found = outputs(gateway, "plain", *OUTPUTS)
    assert (found["calibrated"] == found["probabilities"]).all()
    assert gateway.get("/tasks/plain")["temperature"] == 1
    assert gateway.get("/tasks/warm")["temperature"] == WARM


def test_a_temperature_that_cannot_be_is_told(gateway: Gateway) -> None:
    body = refused(gateway.classify("wrong", png(1)), 503, "unavailable")
    assert "temperature: expected a number above 0, found -1" in body["detail"]


def test_each_version_has_its_own_also_in_a_roll_out(gateway: Gateway) -> None:
    store = gateway.store
    for temperature in (1.0, WARM):
        publish(store, "changing", ARCH, extra={"temperature": temperature})
    store.rollback("changing", 1)
    eventually(lambda: gateway.classify("changing", png(1), "?version=1").status_code == 200)
    eventually(lambda: gateway.classify("changing", png(1), "?version=2").status_code == 200)
    logits = outputs(gateway, "changing", "logits")["logits"]
    plain, warm = (expected("changing", logits, t) for t in (1.0, WARM))
    np.testing.assert_allclose(listed(gateway, "changing", "&version=1"), plain, 1e-5)
    np.testing.assert_allclose(listed(gateway, "changing", "&version=2"), warm, 1e-5)
    store.alias("changing", "canary", 2, Rollout(1.0, rules=Rules(10**9)))
    eventually(lambda: gateway.classify("changing", png(1)).json()["version"] == 2)
    np.testing.assert_allclose(listed(gateway, "changing"), warm, 1e-5)
    np.testing.assert_allclose(outputs(gateway, "changing", "calibrated")["calibrated"], warm, 1e-5)
