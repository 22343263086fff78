"""The query of a request: what is not known is refused, with the name that was meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.service.in_process import Gateway, refused
from tests.service.systems import png


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("topk=3", "did you mean top_k"),
        ("top-k=3", "did you mean top_k"),
        ("TOP_K=3", "did you mean top_k"),
        ("versions=1", "did you mean version"),
        ("verison=1", "did you mean version"),
        ("zzz=1", "expected one of top_k, min_probability, version, label, found 'zzz'"),
        ("=1", "expected one of top_k, min_probability, version, label, found ''"),
        ("task=plain", "expected one of"),
        ("%00=1", "expected one of"),
        ("x" * 5000 + "=1", "expected one of"),
        ("top_k=1&top_k=2", "twice"),
        ("&".join(["a=1"] * 1001), "at most 1000"),
    ],
)
def test_unknown_parameters_of_classify(gateway: Gateway, query: str, says: str) -> None:
    body = refused(gateway.classify("plain", png(1), f"?{query}"), 422, "bad-parameter")
    assert says in body["detail"]
    assert len(body["detail"]) < 300


def test_unknown_parameters_of_the_other_calls(gateway: Gateway) -> None:
    several = gateway.request("POST", "/classify?tsak=plain", content=png(1))
    assert "did you mean task" in refused(several, 422, "bad-parameter")["detail"]
    tasks = gateway.request("GET", "/tasks?limits=3")
    assert "did you mean limit" in refused(tasks, 422, "bad-parameter")["detail"]
    task = gateway.request("GET", "/tasks/plain?x=1")
    assert "expected none on this path" in refused(task, 422, "bad-parameter")["detail"]


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/healthz", "/metrics", "/", "/v2", "/openapi.json"]
)
def test_what_probes_and_proxies_add_is_tolerated(gateway: Gateway, path: str) -> None:
    assert gateway.request("GET", f"{path}?probe=1&x").status_code == 200


@pytest.mark.parametrize(
    "top_k", ["3", "4", "1000", "999999999", "1000000000", "1" + "0" * 30, "003"]
)
def test_more_than_all_classes_are_all_classes(gateway: Gateway, top_k: str) -> None:
    found = gateway.classify("plain", png(1), f"?top_k={top_k}").json()["predictions"]
    assert len(found) == 3
    answer = gateway.request("POST", f"/classify?task=plain&top_k={top_k}", content=png(1))
    assert len(answer.json()["results"][0]["predictions"]) == 3


@pytest.mark.parametrize(
    "top_k", ["0", "-1", "1e99", "five", "1.0", "+1", " 1", "", "٣", "0x1", "1_0"]
)
def test_what_is_no_number_of_classes_is_told_so(gateway: Gateway, top_k: str) -> None:
    body = refused(gateway.classify("plain", png(1), f"?top_k={top_k}"), 422, "bad-parameter")
    shown = repr(top_k.replace("+", " "))
    assert body["detail"] == f"top_k: expected a whole number from 1 to 999999999, found {shown}"


@pytest.mark.parametrize("version", ["0", "-1", "1e3", "99999999999999999999", "9" * 5000])
def test_what_is_no_version_is_told_so(gateway: Gateway, version: str) -> None:
    body = refused(gateway.classify("plain", png(1), f"?version={version}"), 422, "bad-parameter")
    assert "whole number from 1 to 999999999" in body["detail"]


def infer(gateway: Gateway, classification: Any) -> Any:
    outputs = [{"name": "logits", "parameters": {"classification": classification}}]
    sent = {"name": "pixels", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [7] * 12}
    body = json.dumps({"inputs": [sent], "outputs": outputs})
    return gateway.request("POST", "/v2/models/plain/infer", content=body)


@pytest.mark.parametrize("count", [3, 4, 1000, 2**62, 10**30])
def test_more_than_all_classes_are_all_classes_of_v2(gateway: Gateway, count: int) -> None:
    (output,) = infer(gateway, count).json()["outputs"]
    assert output["shape"] == [1, 3]
    assert len(output["data"]) == 3


@pytest.mark.parametrize("count", [-1, 1e99, 1.0, "five", True, [1], -(10**30)])
def test_what_is_no_number_of_classes_is_told_so_of_v2(gateway: Gateway, count: Any) -> None:
    detail = refused(infer(gateway, count), 400, "bad-request")["detail"]
    assert detail.startswith("classification: expected a whole number from 0 to ")
