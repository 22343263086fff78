"""A folder of small pictures and a store of tasks that share components."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model_store import ModelStore
from tests.service.bulk.tables import PICTURES
from tests.service.conftest import MAX_ROWS
from tests.service.systems import TINY, png, publish


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ with PICTURES pictures, one of which is none, in folders; store/ with two tasks."""
    folder = tmp_path_factory.mktemp("bulk")
    store = ModelStore(folder / "store", create=True)
    publish(store, "plain")
    publish(store, "group/wide", replace(TINY, num_classes=10), own={"encoderblock_1": 1})
    (folder / "photos/more").mkdir(parents=True)
    for number in range(PICTURES):
        name = f"more/{number:04}.png" if number % 3 == 0 else f"{number:04}.png"
        (folder / "photos" / name).write_bytes(png(number))
    (folder / "photos/0001.png").write_bytes(b"no picture")
    (folder / "photos/notes.md").write_text("no picture by its name")
    (folder / "photos/.hidden.png").write_bytes(png(1))
    return folder


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, compilations: str, place: Path) -> dict[str, str]:
    """Those of every process that computes."""
    found = {
        "MUNET_COMPILATION_CACHE": compilations,
        "MUNET_MAX_BATCH_ROWS": str(MAX_ROWS),
        "MUNET_BACKEND": "jax",
        "COLUMNS": "80",
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place)
    return found
