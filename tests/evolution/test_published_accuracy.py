"""The accuracy that a task is published with is measured again through the gateway."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evolution.data.adding import Request, add
from evolution.data.images import StreamedSplit
from evolution.data.places import FolderPlace
from evolution.data.tasks import Task, load
from evolution.reports.stored_runs import analyse
from evolution.roots.loading import random_root
from evolution.run import Run
from model_store import ModelStore
from tests.evolution.files import CLASSES, KINDS, drawn_files, file_task
from tests.evolution.systems import ROOT, TINY, tiny
from tests.service.in_process import Gateway
from vit.decode import VIEWER

OWN = "own/photos"
MIXED = KINDS["files/mixed"][0]
SPLITS = {"train": 1024, "validation": 48, "test": 60}
RULES = {"files/mixed": VIEWER, "files/flagged": KINDS["files/flagged"][1], OWN: VIEWER}


def photos(folder: Path) -> Path:
    """Class folders of icons, turned photographs, scans and drawings; a TIFF and a broken file."""
    rng = np.random.default_rng(5)
    for split, count in SPLITS.items():
        for i, (file, label) in enumerate(zip(*drawn_files(MIXED, rng, count), strict=True)):
            path = folder / split / CLASSES[label] / f"{i:04}.img"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file)
    scan = io.BytesIO()
    Image.new("L", (20, 20), 99).save(scan, "TIFF")
    (folder / "train/x/scan.tiff").write_bytes(scan.getvalue())
    (folder / "test/y/broken.img").write_bytes(scan.getvalue()[2:])
    return folder


def task(entry: str) -> Task:
    """One of RULES."""
    return load(entry, (), canvas=16) if entry == OWN else file_task(entry)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelStore]:
    """One task for each of the rules, and one of pictures that were added; trained for a moment."""
    folder = tmp_path_factory.mktemp("own")
    patch = pytest.MonkeyPatch()
    patch.setenv("MUNET_DATA", str(folder / "sets"))
    add(
        Request(OWN, str(photos(folder / "photos")), licence="CC0-1.0"),
        FolderPlace(folder / "sets"),
    )
    store = ModelStore(folder / "store", create=True)
    # Mirrored, or cut to less than half, a picture is of another class; every component is trained.
    defaults = {"ds_flip_left_right": False, "ds_area_range_min": 0.9, "_mu_": 1.0, "opt_lr": 0.05}
    experiment = tiny(
        tasks=tuple(RULES), passes=1, samples_per_task=1, rounds_per_child=3, batch_size=16,
        train_examples_per_round=1024, defaults={**TINY.defaults, **defaults}, ranges={},
    )  # fmt: skip
    search = Run.start(experiment, (ROOT, random_root(ROOT)), store, 0, lambda _: task)
    list(search.run())
    yield store
    patch.undo()


@pytest.fixture(scope="module")
def gateway(published: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Serves them."""
    compilations = str(tmp_path_factory.mktemp("compilations"))
    made = Gateway(published, compilations, max_batch_rows=1)
    yield made
    made.close()


def test_accuracy_through_the_gateway_is_the_published_one(
    published: ModelStore, gateway: Gateway
) -> None:
    for name, rules in RULES.items():
        path = published.resolve(name).path
        assert path.input["decoding"] == rules.name
        test = task(name).test
        examples = test.examples if isinstance(test, StreamedSplit) else test.source
        assert examples is not None
        parsed = [examples.parse(record) for record in examples.encoded(np.arange(len(test)))]
        answers = [gateway.classify(name, bytes(one["image"]), "?top_k=1") for one in parsed]
        assert {answer.status_code for answer in answers} == {200}
        found = [answer.json()["predictions"][0]["index"] for answer in answers]
        right = sum(f == one["label"] for f, one in zip(found, parsed, strict=True))
        told = path.metrics["test"]
        assert told["examples"] == len(parsed)
        assert right / len(parsed) == told["accuracy"], name
        assert told["accuracy"] > 0.9, "other pixels would have other answers"


def test_what_was_found_in_own_pictures_is_told_with_the_task(
    published: ModelStore, gateway: Gateway, tmp_path: Path
) -> None:
    told = gateway.get(f"/tasks/{OWN}")["data"]
    assert told == published.resolve(OWN).path.extra["data"]
    assert told["name"] == OWN and told["fingerprint"].startswith("sha256:")
    assert told["licence"] == "CC0-1.0" and told["source"] == "", "no path of this machine"
    assert told["pictures"] == SPLITS and told["skipped"] == 2
    assert told["repeated_across_splits"] == 0
    low, high = told["interval_95"]["test"]
    assert low < told["interval_95"]["of_accuracy"] < high
    assert told["findings"] == {"bad": "2 of 1,134 pictures cannot be used"}
    assert "data" not in gateway.get("/tasks/files/mixed")
    page = analyse(published, tmp_path / "analysis").page.read_text()
    assert "2 of 1,134 pictures cannot be used" in page
    line = (tmp_path / "analysis/pictures.csv").read_text().splitlines()[1].split(",")
    assert line[:5] == [OWN, *map(str, SPLITS.values()), "2"]
    assert line[-1].endswith("%")
