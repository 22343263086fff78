"""Stores on a local disk and on a real S3 server."""

import os
from pathlib import Path

import pytest

from tests.model_store.places import Place, local_place


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each of the two in turn."""
    if request.param == "s3":
        return request.getfixturevalue("s3_store")
    assert "MUNET_CACHE" not in os.environ
    return local_place(tmp_path)
