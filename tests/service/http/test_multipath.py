"""A task that mixes several paths, asked for like any other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model_store import ModelStore
from service.images import FilePicture
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.systems import TINY, image, multipath, png, publish
from tests.service.waiting import eventually
from vit import preprocess


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    """Task `mixed` mixes `main` with `small` and `hidden`, of smaller images; `even` these two."""
    store = ModelStore(tmp_path_factory.mktemp("store"), create=True)
    small = replace(TINY, image_size=8)
    parts = [
        publish(store, "main"),
        publish(store, "small", small),
        publish(store, "hidden", small, own={"encoderblock_1": 1}, private=True),
    ]
    store.publish(multipath(store, "mixed", parts))
    store.publish(multipath(store, "even", parts[1:]))
    made = Gateway(store, compilations)
    for task in ("main", "small", "mixed"):  # compiling may take longer than a request
        eventually(lambda task=task: made.classify(task, png(1)).status_code == 200)
    yield made
    made.close()


def several(gateway: Gateway, *tasks: str) -> list[dict[str, Any]]:
    asked = "&".join(f"task={task}" for task in tasks)
    answer = gateway.request("POST", f"/classify?{asked}", content=png(1), headers=OCTETS)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_with_its_main_path_on_the_same_image_it_pays_for_that_once(gateway: Gateway) -> None:
    alone = [gateway.classify(task, png(1)).json()["predictions"] for task in ("mixed", "main")]
    before = gateway.metric("munet_rows_shared_total")
    found = several(gateway, "mixed", "main")
    # Stem, two blocks and tail of the main path; stem and a block of the other two.
    assert gateway.metric("munet_rows_shared_total") - before == 4 + 2
    for one, expected in zip(found, alone, strict=True):
        assert [p["label"] for p in one["predictions"]] == [p["label"] for p in expected]
        assert [p["probability"] for p in one["predictions"]] == pytest.approx(
            [p["probability"] for p in expected], abs=1e-5
        )


def test_an_upload_is_decoded_once_for_all_sizes(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    decoded = FilePicture.decoded
    monkeypatch.setattr(FilePicture, "decoded", lambda *a: opened.append(a) or decoded(*a))
    several(gateway, "mixed", "main", "small")
    assert len(opened) == 1


def test_the_list_tells_its_paths_and_who_shares_its_components(gateway: Gateway) -> None:
    found = gateway.get("/tasks/mixed")
    components = {one["name"]: one for one in found["components"]}
    assert components["path_0/head"]["shared_with"] == 1
    assert components["path_1/encoderblock_0"]["shared_with"] == 3  # and not with itself
    assert components["path_2/encoderblock_1"]["shared_with"] == 1  # of those that may be seen
    mixer = ("multipath_router", "head_adapter_path_1", "head_adapter_path_2")
    assert found["bytes"]["own"] == sum(components[name]["bytes"] for name in mixer)
    assert found["input"]["sizes"] == [8, 16]
    paths = found["subpaths"]
    assert [one["task"] for one in paths] == ["main", "small", None]
    assert [one["answers"] for one in paths] == ["logits", "features", "features"]
    assert [one["input"]["size"] for one in paths] == [16, 8, 8]
    assert "hidden" not in str(paths)
    assert "subpaths" not in gateway.get("/tasks/main")


def test_network_input_is_told_and_taken_where_all_paths_have_one_size(gateway: Gateway) -> None:
    inputs = {
        model: {one["name"]: one["shape"] for one in gateway.get(f"/v2/models/{model}")["inputs"]}
        for model in ("even", "mixed")
    }
    assert list(inputs["mixed"]) == ["image", "pixels"]
    assert inputs["even"]["preprocessed"] == [-1, 8, 8, 3]
    values = preprocess(np.asarray(image(1)), 8)[None]
    sent = {"name": "preprocessed", "datatype": "FP32", "shape": [1, 8, 8, 3]}
    body = {"inputs": [{**sent, "data": values.ravel().tolist()}]}
    path = "/v2/models/even/infer"
    eventually(lambda: gateway.request("POST", path, json=body).status_code == 200)
    outputs = gateway.request("POST", path, json=body).json()["outputs"]
    odds = next(one["data"] for one in outputs if one["name"] == "probabilities")
    found = gateway.classify("even", png(1)).json()["predictions"]
    assert [odds[p["index"]] for p in found] == pytest.approx([p["probability"] for p in found])


def test_a_malformed_one_fails_alone_and_says_why(gateway: Gateway) -> None:
    path = gateway.store.resolve("mixed").path
    first, *others = path.subpaths
    bad = replace(path, task="bad", subpaths=({**first, "task": ["x"], "input": 5}, *others))
    gateway.store.publish(bad)
    why = refused(gateway.classify("bad", png(1)), 503, "unavailable")["detail"]
    assert "input of path_0" in why
    assert gateway.get("/tasks/bad")["state"] == "failed"
    assert gateway.request("GET", "/v2/models/bad").status_code == 200
    assert gateway.classify("mixed", png(1)).status_code == 200
    gateway.store.rm("bad")
