"""The store that is copied."""

from pathlib import Path

import pytest

from model_store import ModelStore
from tests.model_store.backup.full_store import fill
from tests.model_store.samples import new_store


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """A store that has something of every kind."""
    made = new_store(tmp_path)
    fill(made)
    return made
