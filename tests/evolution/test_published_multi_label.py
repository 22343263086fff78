"""The mean average precision that a task is published with is measured again through a gateway."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from PIL import Image, ImageDraw

from evolution.data.adding import Request, add
from evolution.data.places import FolderPlace
from evolution.data.stored import Pictures, card_of
from evolution.data.tasks import Task, load
from evolution.roots.loading import random_root
from evolution.run import Run
from model_store import ModelStore
from tests.evolution.data.drawn import encoded
from tests.evolution.systems import ROOT, TINY, tiny
from tests.service.servers import Server

pytestmark = pytest.mark.slow
LABELS = ("left", "right", "striped")
COUNT = 640


def drawn(seed: int) -> tuple[bytes, list[str]]:
    """A photograph with a bright half or two, and perhaps stripes."""
    rng = np.random.default_rng(seed)
    labels = [name for name in LABELS if rng.random() < 0.45]
    width, height = (int(side) for side in rng.integers(16, 40, 2))
    ground = rng.integers(0, 110, (height, width, 3), dtype=np.uint8)
    for name, half in (("left", slice(None, width // 2)), ("right", slice(width // 2, None))):
        if name in labels:
            ground[:, half] += 110
    image = Image.fromarray(ground)
    if "striped" in labels:
        pen = ImageDraw.Draw(image)
        for y in range(0, height, 6):
            pen.line((0, y, width, y), (255, 0, 0), 2)
    form = ("PNG", "JPEG")[seed % 2]
    return encoded(image, form), labels


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FolderPlace]:
    """With the set."""
    folder = tmp_path_factory.mktemp("tags")
    lines = []
    for i in range(COUNT):
        data, labels = drawn(i)
        (folder / f"{i}.img").write_bytes(data)
        lines.append(json.dumps({"image": f"{i}.img", "labels": labels}))
    (folder / "all.jsonl").write_text("\n".join(lines))
    patch = pytest.MonkeyPatch()
    patch.setenv("MUNET_DATA", str(folder / "sets"))
    made = FolderPlace(folder / "sets")
    add(Request("tags", str(folder / "all.jsonl")), made)
    yield made
    patch.undo()


def task(entry: str) -> Task:
    return load(entry, (), canvas=16)


@pytest.fixture(scope="module")
def published(place: FolderPlace, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Trained for a moment."""
    store = ModelStore(tmp_path_factory.mktemp("store"), create=True)
    defaults = {"ds_flip_left_right": False, "ds_area_range_min": 0.9, "_mu_": 1.0, "opt_lr": 0.05}
    experiment = tiny(
        tasks=("tags",), passes=1, samples_per_task=1, rounds_per_child=2, batch_size=16,
        train_examples_per_round=2048, defaults={**TINY.defaults, **defaults}, ranges={},
    )  # fmt: skip
    search = Run.start(experiment, (ROOT, random_root(ROOT)), store, 0, lambda _: task)
    list(search.run())
    return store


def by_its_definition(scores: np.ndarray, wanted: np.ndarray) -> float:
    """Mean over labels of the mean over positives of the share of positives scored no less."""
    found = []
    for own, right in zip(scores.T, wanted.T, strict=True):
        shares = [right[own >= score].mean() for score in own[right]]
        if shares:
            found.append(np.mean(shares))
    return float(np.mean(found))


def test_the_precision_through_the_gateway_is_the_published_one(
    published: ModelStore, place: FolderPlace, tmp_path: Path
) -> None:
    card = card_of(place, "tags")
    assert card is not None
    test = list(Pictures(place, "tags", card.files["test"]).each())
    path = published.resolve("tags").path
    told: Any = path.metrics["test"]
    wanted = np.array([[i in labels for i in range(3)] for _, labels in test])
    assert told["examples"] == len(test) and told["positives"] == wanted.sum(0).tolist()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"MUNET_STORE": published.url, "MUNET_GRPC_PORT": str(port)}
    with Server(".", tmp_path / "home", **variables) as server:
        scores = np.zeros(wanted.shape)
        for row, (data, _) in enumerate(test):
            answer = server.ask(
                "POST", "/classify/tags", data, {"content-type": "application/octet-stream"}
            ).json
            for one in answer["predictions"]:
                assert one["label"] == path.labels[one["index"]]
                scores[row, one["index"]] = one["probability"]
        client: Any = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}")
        image = tritonclient.grpc.InferInput("image", [1, 1], "BYTES")
        image.set_data_from_numpy(np.array([[test[0][0]]], object))
        wanted_too = [tritonclient.grpc.InferRequestedOutput("calibrated")]
        found = client.infer("tags", [image], outputs=wanted_too)
        by_grpc = found.as_numpy("calibrated")
        client.close()
    np.testing.assert_allclose(by_grpc[0], scores[0], rtol=1e-5)
    assert by_its_definition(scores, wanted) == pytest.approx(
        told["mean_average_precision"], abs=1e-3
    )
    constant = path.extra["data"]["constant_mean_average_precision"]
    assert told["mean_average_precision"] > constant + 0.3, "other pixels: other answers"
