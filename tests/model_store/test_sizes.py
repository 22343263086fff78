"""Sizes as people write them."""

from pathlib import Path

import pytest

from model_store.errors import StorageError
from model_store.files.cache import BlobCache
from model_store.files.limits import parse_size


def test_units() -> None:
    assert parse_size("1.5 gib") == 3 * 2**29
    assert parse_size("2GB") == 2 * 10**9
    assert parse_size("7") == 7


@pytest.mark.parametrize(
    "text", ["", " ", "-1", "1e3", "nan", "1QB", "\N{FULLWIDTH DIGIT NINE}", "9" * 400]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="512MiB"):
        parse_size(text)


def test_the_cache_takes_units_and_refuses_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MUNET_CACHE", str(tmp_path))
    monkeypatch.setenv("MUNET_CACHE_BYTES", "1GiB")
    BlobCache.from_environment()
    monkeypatch.setenv("MUNET_CACHE_BYTES", "plenty")
    with pytest.raises(StorageError, match=r"MUNET_CACHE_BYTES.*'plenty'"):
        BlobCache.from_environment()
