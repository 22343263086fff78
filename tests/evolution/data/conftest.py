"""A place for sets of each test's own."""

import pytest

from evolution.data.adding import Request, add
from evolution.data.opening import Asked
from evolution.data.places import FolderPlace
from evolution.data.tables import Columns


@pytest.fixture
def place(tmp_path, monkeypatch) -> FolderPlace:
    """Where MUNET_DATA says."""
    monkeypatch.setenv("MUNET_DATA", str(tmp_path / "sets"))
    return FolderPlace(tmp_path / "sets")


@pytest.fixture
def added(place):
    """Adds a set as a user does; its card."""

    def adding(name, source, columns=None, images=None, **how):
        asked = Asked(columns or Columns(), images)
        card, _, _, _ = add(Request(name, str(source), asked, **how), place)
        return card

    return adding
