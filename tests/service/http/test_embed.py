"""POST /embed: features over HTTP, under the laws that hold for /classify."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from model_store import ModelStore, Rollout, Rules
from service.request import STAGES
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.systems import TINY, multipath, png, publish, tree_of
from tests.service.waiting import eventually


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    """Tasks that share a stem and a block, one of several networks, one that is tried out."""
    store = ModelStore(tmp_path_factory.mktemp("embedding"), create=True)
    one = publish(store, "one")
    two = publish(store, "two", own={"encoderblock_1": 1})
    publish(store, "group/wide", replace(TINY, num_classes=10))
    publish(store, "tried")
    publish(store, "tried", own={"encoder_norm": 5})
    store.rollback("tried", 1)
    store.alias("tried", "canary", 2, Rollout(1.0, rules=Rules(10**9)))
    store.publish(multipath(store, "mixed", [one, two]))
    publish(store, "hidden", private=True)
    made = Gateway(store, compilations, max_batch_rows=4, max_body_bytes=100_000)
    for task in ("one", "two", "group/wide", "tried", "mixed"):  # compiling may take long
        eventually(lambda task=task: made.classify(task, png(1)).status_code == 200)
    eventually(lambda: embed(made, "/one?depth=0").status_code == 200)
    eventually(lambda: embed(made, "/one").status_code == 200)
    yield made
    made.close()


def embed(gateway: Gateway, path: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.request("POST", f"/embed{path}", content=png(1), headers={**OCTETS, **named})


def answer(gateway: Gateway, path: str) -> dict[str, Any]:
    response = embed(gateway, path)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_linear_head_of_ones_own_reads_what_the_tasks_head_reads(gateway: Gateway) -> None:
    found = answer(gateway, "/one")
    assert (found["task"], found["version"], found["depth"]) == ("one", 1, 2)
    head = tree_of(gateway.store, gateway.store.resolve("one"))["head"]
    logits = np.array(found["features"], np.float32) @ head["kernel"] + head["bias"]
    odds = np.exp(logits - logits.max())
    listed = gateway.classify("one", png(1)).json()["predictions"]
    expected = {one["index"]: one["probability"] for one in listed}
    assert (odds / odds.sum()).tolist() == pytest.approx(
        [expected[index] for index in range(3)], abs=1e-5
    )


def test_each_depth_has_features_of_its_own(gateway: Gateway) -> None:
    found = [answer(gateway, f"/one?depth={depth}") for depth in range(3)]
    assert [one["depth"] for one in found] == [0, 1, 2]
    assert len({tuple(one["features"]) for one in found}) == 3
    assert {len(one["features"]) for one in found} == {TINY.width}
    assert found[2]["features"] == answer(gateway, "/one")["features"]


def test_several_tasks_compute_what_they_share_once(gateway: Gateway) -> None:
    alone = {task: answer(gateway, f"/{task}?depth=1") for task in ("one", "two", "group/wide")}
    before = gateway.metric("munet_rows_shared_total")
    found = answer(gateway, "?task=two&task=one&task=group/wide&depth=1")
    assert gateway.metric("munet_rows_shared_total") - before == 6  # stem, block, norm of two
    assert found["timing_ms"].keys() == {*STAGES, "total"}
    assert [one["task"] for one in found["results"]] == ["two", "one", "group/wide"]
    for one in found["results"]:
        assert one["features"] == pytest.approx(alone[one["task"]]["features"], abs=1e-5)


def test_a_task_that_has_none_has_a_problem_in_its_place(gateway: Gateway) -> None:
    found = answer(gateway, "?task=mixed&task=one&task=missing&task=hidden")["results"]
    assert [one.get("problem", {}).get("status") for one in found] == [422, None, 404, 404]
    assert "one network" in found[0]["problem"]["detail"]
    body = refused(embed(gateway, "?task=mixed&task=missing"), 422, "bad-parameter")
    assert "'mixed', which mixes 2" in body["detail"]


def test_the_live_version_answers_during_a_roll_out(gateway: Gateway) -> None:
    """Vectors of two versions cannot be compared: a share of them would spoil an index."""
    eventually(lambda: gateway.classify("tried", png(1)).json()["version"] == 2)
    assert answer(gateway, "/tried")["version"] == 1
    assert answer(gateway, "?task=tried")["results"][0]["version"] == 1
    asked = answer(gateway, "/tried?version=canary")
    assert asked["version"] == 2
    assert asked["features"] != answer(gateway, "/tried?version=1")["features"]


@pytest.mark.parametrize(("path", "status", "kind", "words"), [
    ("/one?depth=3", 422, "bad-parameter", "from 0 to 2, the blocks of task 'one', found 3"),
    ("/one?depth=-1", 422, "bad-parameter", "depth: expected a whole number from 0"),
    ("/one?depth=", 422, "bad-parameter", "depth: expected a whole number from 0"),
    ("/one?depth=1.5", 422, "bad-parameter", "found '1.5'"),
    ("/one?depth=1&depth=2", 422, "bad-parameter", "depth: expected once"),
    ("/one?dept=1", 422, "bad-parameter", "did you mean depth?"),
    ("/one?top_k=1", 422, "bad-parameter", "expected one of depth, version"),
    ("/mixed", 422, "bad-parameter", "'mixed', which mixes 2"),
    ("/on", 404, "unknown-task", "one"),
    ("/one?version=9", 404, "unknown-task", "version 9"),
    ("/hidden?depth=9", 404, "unknown-task", "hidden"),
    ("?task=one&task=one", 422, "bad-parameter", "named twice"),
    ("", 422, "bad-parameter", "1 to 4 tasks"),
])  # fmt: skip
def test_what_is_refused(gateway: Gateway, path: str, status: int, kind: str, words: str) -> None:
    assert words in refused(embed(gateway, path), status, kind)["detail"]


def test_limits_hold(gateway: Gateway) -> None:
    assert refused(embed(gateway, "/one", munet_deadline_ms="x"), 422, "bad-parameter")
    large = gateway.request("POST", "/embed/one", content=bytes(200_000), headers=OCTETS)
    refused(large, 413, "too-large")
    refused(gateway.request("POST", "/embed/one", content=b"x", headers=OCTETS), 400, "bad-image")
    assert gateway.request("GET", "/embed/one").status_code == 405


def test_a_depth_is_refused_before_the_image_is_looked_at(gateway: Gateway) -> None:
    found = gateway.request("POST", "/embed/one?depth=3", content=bytes(200_000), headers=OCTETS)
    refused(found, 422, "bad-parameter")


def test_they_count_as_requests_of_the_task(gateway: Gateway) -> None:
    lines = [
        'munet_requests_total{status="200",task="one"}',
        'munet_request_duration_seconds_count{task="one"}',
        'munet_stage_duration_seconds_count{outcome="answered",stage="execute",task="one"}',
        'munet_rejected_total{reason="bad-parameter"}',
    ]
    before = [gateway.metric(line) for line in lines]
    answer(gateway, "/one")
    embed(gateway, "/one?depth=9")
    after = [gateway.metric(line) for line in lines]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1, 1]


def test_features_that_are_not_finite_are_a_fault(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = gateway.app.state.runtime.engine._compute

    def spoilt(waiting: Any, missing: Any, go_on: Any) -> bool:
        nodes = [node for group in waiting.values() for node in group]
        done = compute(waiting, missing, go_on)
        while nodes:
            node = nodes.pop()
            nodes += node.children.values()
            if node.answer is not None:
                node.answer = np.full_like(node.answer, np.nan)
        return done

    monkeypatch.setattr(gateway.app.state.runtime.engine, "_compute", spoilt)
    body = refused(embed(gateway, "/one"), 500, "internal")
    assert "not finite" in body["detail"]


# -- the other protocol


def outputs(gateway: Gateway, task: str, *names: str, **parameters: Any) -> dict[str, np.ndarray]:
    pixels = np.arange(2 * 16 * 16 * 3).reshape(2, 16, 16, 3) % 256
    body: dict[str, Any] = {
        "inputs": [
            {
                "name": "pixels",
                "shape": list(pixels.shape),
                "datatype": "UINT8",
                "data": pixels.ravel().tolist(),
            }
        ],
        "outputs": [{"name": name} for name in names],
        "parameters": parameters,
    }
    response = gateway.request("POST", f"/v2/models/{task}/infer", json=body)
    assert response.status_code == 200, response.text
    return {
        one["name"]: np.array(one["data"], np.float32).reshape(one["shape"])
        for one in response.json()["outputs"]
    }


def test_the_other_protocol_gives_them_alone_and_with_other_outputs(gateway: Gateway) -> None:
    alone = outputs(gateway, "one", "features")
    assert list(alone) == ["features"] and alone["features"].shape == (2, TINY.width)
    both = outputs(gateway, "one", "calibrated", "features", "logits")
    assert list(both) == ["calibrated", "features", "logits"]
    np.testing.assert_allclose(both["features"], alone["features"], atol=1e-5)
    plain = outputs(gateway, "one", "logits", "calibrated")
    for name, expected in plain.items():
        np.testing.assert_allclose(both[name], expected, atol=1e-5)
    shallow = outputs(gateway, "one", "features", depth=1)["features"]
    assert shallow.shape == (2, TINY.width)
    assert not np.allclose(shallow, alone["features"], atol=1e-2)


def test_a_request_for_both_counts_each_image_once(gateway: Gateway) -> None:
    def counted() -> int:
        return gateway.get("/v2/models/one/stats")["model_stats"][0]["inference_count"]

    before = counted()
    outputs(gateway, "one", "features", "logits")
    assert counted() - before == 2


def test_metadata_tells_of_them_where_there_are_some(gateway: Gateway) -> None:
    told = {one["name"]: one["shape"] for one in gateway.get("/v2/models/one")["outputs"]}
    assert told["features"] == [-1, TINY.width]
    mixed = [one["name"] for one in gateway.get("/v2/models/mixed")["outputs"]]
    assert mixed == ["probabilities", "logits", "calibrated"]


@pytest.mark.parametrize(("task", "output", "parameters", "status", "words"), [
    ("one", {}, {"depth": 3}, 422, "from 0 to 2"),
    ("one", {}, {"depth": "1"}, 400, "depth: expected a whole number"),
    ("one", {"classification": 2}, {}, 400, "no labels"),
    ("mixed", {}, {}, 422, "which mixes 2"),
])  # fmt: skip
def test_what_the_other_protocol_refuses(
    gateway: Gateway,
    task: str,
    output: dict[str, Any],
    parameters: dict[str, Any],
    status: int,
    words: str,
) -> None:
    pixels = {"name": "pixels", "shape": [1, 16, 16, 3], "datatype": "UINT8", "data": [7] * 768}
    wanted = {"name": "features", "parameters": output}
    body = {"inputs": [pixels], "outputs": [wanted], "parameters": parameters}
    response = gateway.request("POST", f"/v2/models/{task}/infer", json=body)
    assert response.status_code == status, response.text
    assert words in response.json()["error"]
