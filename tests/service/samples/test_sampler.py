"""Which answers are kept, and what is kept of a request."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model_store import ModelStore
from service.samples import writer as writers
from service.samples.places import FolderPlace
from service.samples.table import SCHEMA
from tests.service.in_process import OCTETS, Gateway
from tests.service.samples.kept import rows
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S

KEPT = 'munet_samples_total{outcome="kept"}'
Served = Callable[..., Gateway]


@pytest.fixture
def served(tmp_path: Path, compilations: str) -> Iterator[Served]:
    """Gateways that keep samples in `kept`; all of them unless the settings say otherwise."""
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain")
    publish(store, "tags", extra={"activation": "sigmoid", "temperature": 2.0})
    publish(store, "secret/one", private=True)
    publish(store, "secret/two", private=True)
    made: list[Gateway] = []

    def serve(**settings: Any) -> Gateway:
        where = {"samples_to": str(tmp_path / "kept")}
        gateway = Gateway(store, compilations, **{"samples": 1.0, **where, **settings})
        made.append(gateway)
        return gateway

    yield serve
    for gateway in made:
        if gateway.app.state.runtime.samples is not None:
            gateway.app.state.runtime.samples.writer.stop()
        gateway.close()


def kept(gateway: Gateway, folder: Path) -> list[dict[str, Any]]:
    """What the gateway has kept when it has ended."""
    gateway.app.state.runtime.samples.writer.stop()
    return rows(folder / "kept")


def test_a_picture_of_which_features_are_asked_for_is_not_kept(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = served()
    for path in ("/embed/plain", "/embed?task=plain&task=tags"):
        assert gateway.request("POST", path, content=png(1), headers=OCTETS).status_code == 200
    assert gateway.classify("plain", png(2)).status_code == 200
    assert [one["image"]["bytes"] for one in kept(gateway, tmp_path)] == [png(2)]
    assert "sample_failed" not in caplog.text


def test_nothing_is_kept_unless_it_is_asked_for(served: Served, tmp_path: Path) -> None:
    gateway = served(samples=0.0)
    assert gateway.classify("plain", png(1)).status_code == 200
    assert gateway.app.state.runtime.samples is None
    assert not (tmp_path / "kept").exists()


def test_the_upload_and_the_answer_are_kept_and_nothing_else(
    served: Served, tmp_path: Path
) -> None:
    gateway, began = served(), datetime.now(UTC)
    answer = gateway.classify("plain", png(1), cookie="secret=1", munet_rollout_key="me").json()
    (row,) = kept(gateway, tmp_path)
    assert row.keys() == set(SCHEMA.names)
    assert row["image"]["bytes"] == png(1)
    assert row["image"]["path"].endswith(".png")
    best = answer["predictions"][0]
    assert (row["task"], row["version"], row["activation"]) == ("plain", 1, "softmax")
    assert row["label"] == [best["label"]]
    assert row["probability"] == pytest.approx(best["probability"], abs=1e-6)
    assert [one["label"] for one in row["answers"]] == [p["label"] for p in answer["predictions"]]
    assert abs(row["time"] - began) < timedelta(minutes=5)
    assert gateway.metric(KEPT) == 1


def test_a_picture_opens_as_it_was_sent(served: Served, tmp_path: Path) -> None:
    gateway = served()
    gateway.classify("plain", png(7))
    (row,) = kept(gateway, tmp_path)
    with Image.open(io.BytesIO(row["image"]["bytes"])) as opened:
        assert opened.size == (16, 16)


def test_labels_of_which_a_picture_has_several(served: Served, tmp_path: Path) -> None:
    """The calibrated ones that are more probable than not; how sure the least sure of all is."""
    gateway = served()
    answer = gateway.classify("tags", png(1)).json()["predictions"]
    (row,) = kept(gateway, tmp_path)
    assert row["label"] == [one["label"] for one in answer if one["probability"] >= 0.5]
    surest = [max(one["probability"], 1 - one["probability"]) for one in answer]
    assert row["probability"] == pytest.approx(min(surest), abs=1e-6)


def test_answers_below_a_confidence_are_kept(served: Served, tmp_path: Path) -> None:
    gateway = served(samples=0.0)
    asked = {
        seed: gateway.classify("plain", png(seed)).json()["predictions"][0]["probability"]
        for seed in range(12)
    }
    bound = float(np.median(list(asked.values())))
    gateway = served(samples=0.0, samples_below=bound)
    for seed in asked:
        gateway.classify("plain", png(seed))
    found = {row["image"]["bytes"] for row in kept(gateway, tmp_path)}
    assert found == {png(seed) for seed, probability in asked.items() if probability < bound}


def test_a_share_of_the_pictures_is_kept(served: Served, tmp_path: Path) -> None:
    gateway = served(samples=0.5)
    sampler = gateway.app.state.runtime.samples
    drawn = iter([0.1, 0.9, 0.49, 0.5])
    sampler.draw = lambda: next(drawn)
    for seed in range(4):
        gateway.classify("plain", png(seed))
    assert [row["image"]["bytes"] for row in kept(gateway, tmp_path)] == [png(0), png(2)]


def test_each_task_of_a_request_has_a_row(served: Served, tmp_path: Path) -> None:
    gateway = served()
    gateway.request("POST", "/classify?task=plain&task=tags", content=png(3))
    found = kept(gateway, tmp_path)
    assert sorted(row["task"] for row in found) == ["plain", "tags"]
    assert {row["image"]["bytes"] for row in found} == {png(3)}


def test_private_tasks_are_kept_only_by_their_exact_names(served: Served, tmp_path: Path) -> None:
    """Nor is a picture that was sent for one of them kept with the answer of another task."""
    (tmp_path / "tokens.toml").write_text(
        '[[token]]\nname = "anonymous"\nclassify = ["*", "secret/one", "secret/two"]\n'
    )
    tokens = str(tmp_path / "tokens.toml")
    gateway = served(samples_tasks="secret/*, secret/two, plain", tokens=tokens)
    for path in (
        "/classify/secret/one",
        "/classify?task=plain&task=secret/one",
        "/classify/tags",
        "/classify/nowhere",
    ):
        gateway.request("POST", path, content=png(1))
    for path in ("/classify/secret/two", "/classify?task=plain"):
        assert gateway.request("POST", path, content=png(1)).status_code == 200
    assert [row["task"] for row in kept(gateway, tmp_path)] == ["secret/two", "plain"]


def test_public_tasks_may_be_chosen_by_a_pattern(served: Served, tmp_path: Path) -> None:
    gateway = served(samples_tasks="t*")
    for task in ("plain", "tags"):
        assert gateway.classify(task, png(1)).status_code == 200
    assert [row["task"] for row in kept(gateway, tmp_path)] == ["tags"]


def test_files_come_by_v2_too_and_bare_pixels_are_no_pictures_to_show(
    served: Served, tmp_path: Path
) -> None:
    gateway = served()
    pixels = np.zeros((1, 16, 16, 3), int).tolist()
    bare = {"name": "pixels", "shape": [1, 16, 16, 3], "datatype": "UINT8", "data": pixels}
    assert gateway.request(
        "POST", "/v2/models/plain/infer", json={"inputs": [bare]}
    ).status_code == 200  # fmt: skip
    headers = {"inference-header-content-length": "0"}
    sent = gateway.request("POST", "/v2/models/plain/infer", content=png(4), headers=headers)
    assert sent.status_code == 200, sent.text
    assert [row["image"]["bytes"] for row in kept(gateway, tmp_path)] == [png(4)]


def test_a_fault_of_sampling_changes_no_answer(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = served()

    def fail(_: object) -> None:
        raise MemoryError

    gateway.app.state.runtime.samples.writer.offer = fail
    assert gateway.classify("plain", png(1)).status_code == 200
    assert "event=sample_failed" in caplog.text


def test_a_disk_that_hangs_holds_up_no_answer(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, free, write = Event(), Event(), FolderPlace.write

    def late(place: FolderPlace, name: str, data: bytes) -> None:
        asked.set()
        free.wait(PATIENCE_S)
        write(place, name, data)

    monkeypatch.setattr(FolderPlace, "write", late)
    monkeypatch.setattr(writers, "FILE_BYTES", 1)
    gateway = served()
    assert gateway.classify("plain", png(0)).status_code == 200
    assert asked.wait(PATIENCE_S)
    assert gateway.classify("plain", png(1)).status_code == 200
    free.set()
    assert len(kept(gateway, tmp_path)) == 2


def test_a_place_that_cannot_be_written_changes_no_answer(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    gateway = served(samples_to=str(tmp_path / "file" / "kept"))
    assert gateway.classify("plain", png(1)).status_code == 200
    gateway.app.state.runtime.samples.writer.stop()
    assert gateway.classify("plain", png(1)).status_code == 200
    assert gateway.metric('munet_samples_total{outcome="failed"}') == 1
    assert gateway.metric('munet_samples_total{outcome="no_room"}') == 1  # it has ended
