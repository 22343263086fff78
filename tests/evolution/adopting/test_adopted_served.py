"""Adopted tasks through the gateway: a picture's file goes in, the library's logits come out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolution.adopting.publishing import publish
from model_store import ModelStore
from tests.evolution.adopting.networks import EQUAL, FIXTURES, LABELS, PICTURE, model
from tests.service.in_process import OCTETS, Gateway
from tests.service.servers import ROOT, Server

# Together they have every part and every kind of input that a network of ours may have.
SERVED = ("hf/dinov2", "timm/registers", "timm/clip", "timm/deit", "timm/gap-fc")


def logits_of(answer: Any) -> np.ndarray:
    """Of an answer of /v2."""
    return np.array(next(o["data"] for o in answer["outputs"] if o["name"] == "logits"), np.float32)


def expected(name: str) -> np.ndarray:
    return np.load(FIXTURES / name / "expected.npz")["logits"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    store = ModelStore(tmp_path_factory.mktemp("adopted"), create=True)
    for name in SERVED:
        publish(store, name, model(name), private=False)
    folder = str(tmp_path_factory.mktemp("compiled"))
    made = Gateway(store, folder, max_batch_rows=1)
    yield made
    made.close()


@pytest.mark.parametrize("name", SERVED)
def test_a_file_is_answered_as_by_its_library(gateway: Gateway, name: str) -> None:
    head = {**OCTETS, "inference-header-content-length": "0"}
    path = f"/v2/models/{name.replace('/', '%2F')}/infer"
    answer = gateway.request("POST", path, content=PICTURE, headers=head)
    assert answer.status_code == 200, answer.text
    assert np.abs(logits_of(answer.json()) - expected(name)).max() < EQUAL
    best = gateway.classify(name, PICTURE).json()["predictions"][0]
    assert best["label"] == LABELS[int(expected(name).argmax())]


def test_network_input_is_taken_on_the_scale_of_the_version(gateway: Gateway) -> None:
    pixels = np.load(FIXTURES / "hf/dinov2" / "expected.npz")["pixels"].transpose(1, 2, 0)
    assert pixels.max() > 1.5

    def infer(pixels: np.ndarray) -> Any:
        tensor = {"name": "preprocessed", "datatype": "FP32", "shape": [1, *pixels.shape],
                  "data": pixels.ravel().tolist()}  # fmt: skip
        return gateway.request("POST", "/v2/models/hf%2Fdinov2/infer", json={"inputs": [tensor]})

    assert np.abs(logits_of(infer(pixels).json()) - expected("hf/dinov2")).max() < EQUAL
    refused = infer(pixels + 2)
    assert refused.status_code == 400 and "from -2.1" in refused.text


@pytest.mark.slow
def test_the_command_and_a_server_of_its_own(tmp_path: Path) -> None:
    store, place = str(tmp_path / "store"), FIXTURES / "hf" / "deit-distilled"
    command = [sys.executable, "-m", "munet", "adopt", "pets", "--from", f"hf:{place}"]
    told = subprocess.run([*command, "--store", store], cwd=ROOT, check=True, capture_output=True)
    assert b"pets v1: DeiTForImageClassificationWithTeacher" in told.stdout
    with Server(".", tmp_path / "home", MUNET_STORE=store) as server:
        head = {**OCTETS, "inference-header-content-length": "0"}
        reply = server.ask("POST", "/v2/models/pets/infer", PICTURE, head)
        assert np.abs(logits_of(reply.json) - expected("hf/deit-distilled")).max() < EQUAL
