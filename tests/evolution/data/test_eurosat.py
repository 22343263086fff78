"""EuroSAT from its class folders to answers: added, trained on, served, asked of every test file.

EUROSAT_FOLDER names a folder that has them: 27,000 JPEG files in ten folders, or the parts of its
archive (CLASS.members.tar.xz).
"""

import os
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from evolution.data.adding import Request, add
from evolution.data.confidence import interval
from evolution.data.places import open_place
from evolution.data.stored import Pictures
from evolution.data.tasks import source_of
from evolution.experiments.small import DEMO
from evolution.roots.loading import load_root
from evolution.run import Run
from model_store import ModelStore
from tests.service.servers import Server

SOURCE = os.environ.get("EUROSAT_FOLDER", "")


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """The set's own folder of class folders."""
    parts = sorted(Path(SOURCE).glob("*.members.tar.xz"))
    for part in parts:
        with tarfile.open(part) as opened:
            opened.extractall(tmp_path / "eurosat", filter="data")
    if not parts:
        shutil.copytree(SOURCE, tmp_path / "eurosat")
    return tmp_path / "eurosat"


@pytest.mark.slow
@pytest.mark.skipif(
    not SOURCE, reason="EUROSAT_FOLDER names no folder with EuroSAT's class folders"
)
def test_eurosat_from_its_class_folders(class_folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MUNET_DATA", str(tmp_path / "sets"))
    card, classes, _, _ = add(Request("eurosat", str(class_folders), licence="MIT"), open_place())
    assert card.check.pictures == 27_000 and len(classes) == 10 and card.check.bad == 0
    experiment = replace(
        DEMO, name="eurosat", tasks=("eurosat",), samples_per_task=2, rounds_per_child=3,
        train_examples_per_round=24_300,
    )  # fmt: skip
    root = load_root("shipped", 32, 3)
    store = ModelStore(tmp_path / "store", create=True)
    list(Run.start(experiment, root, store, 0, source_of).run())
    told = store.resolve("eurosat").path.metrics["test"]
    serve = (sys.executable, "-m", "munet", "serve", "--store", str(tmp_path / "store"))
    tested = Pictures(open_place(), "eurosat", card.files["test"])
    with Server("", tmp_path / "home", command=serve) as server:
        replies = [(server.classify("eurosat", data), labels) for data, labels in tested.each()]
    right = sum(reply.json["predictions"][0]["index"] in labels for reply, labels in replies)
    reached, count = right / len(replies), len(replies)
    low, high = interval(reached, count)
    with capsys.disabled():
        sys.stdout.write(
            f"\nEuroSAT through the gateway: {reached:.4f} ({low:.3f} to {high:.3f})\n"
        )
    assert count == told["examples"] == 1350
    # The gateway computes in batches of other sizes: an answer that is a tie may fall otherwise.
    assert abs(right - told["accuracy"] * count) <= 1
    assert reached > 0.6
