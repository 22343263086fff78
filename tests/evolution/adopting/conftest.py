"""What the tests of exports share: an empty store."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store import ModelStore


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(str(tmp_path / "store"), create=True)
