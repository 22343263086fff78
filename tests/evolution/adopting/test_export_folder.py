"""An export's folder: whole or not there, and it replaces no folder that is no export."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolution.adopting.export import write
from evolution.adopting.export_errors import ExportError
from model_store import ModelStore
from tests.evolution.adopting.exported import (
    publish,
)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


WRITTEN = {"README.md", "config.json", "model.safetensors", "munet.json"} | {
    "preprocessor_config.json"
}


def test_an_export_is_replaced_and_an_empty_folder_filled(
    store: ModelStore, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    write(store, publish(store), out)
    first = (out / "model.safetensors").read_bytes()
    write(store, publish(store, seed=1), out)
    assert (out / "model.safetensors").read_bytes() != first
    assert names(out) == WRITTEN
    assert names(out.parent) == {"out"}


def _add(out: Path) -> None:
    (out / "notes.txt").write_text("mine")


def _change(out: Path) -> None:
    (out / "README.md").write_text("mine")


def _remove(out: Path) -> None:
    (out / "README.md").unlink()


def _no_record(out: Path) -> None:
    (out / "munet.json").unlink()


def _other_record(out: Path) -> None:
    (out / "munet.json").write_text('{"files": {"../other": "sha256:"}}')


def _folder_inside(out: Path) -> None:
    (out / "model.safetensors").unlink()
    (out / "model.safetensors").mkdir()


OTHERS = (_add, _change, _remove, _no_record, _other_record, _folder_inside)


@pytest.mark.parametrize("change", OTHERS)
def test_a_folder_of_others_is_left_as_it_is(
    store: ModelStore, tmp_path: Path, change: Any
) -> None:
    out = tmp_path / "out"
    write(store, publish(store), out)
    change(out)
    before = {file: file.is_file() and file.read_bytes() for file in out.iterdir()}
    with pytest.raises(ExportError, match="expected no such folder, an empty one"):
        write(store, publish(store, seed=1), out)
    assert {file: file.is_file() and file.read_bytes() for file in out.iterdir()} == before
    assert names(tmp_path) == {"out", "store"}


def test_a_link_and_a_file_are_refused(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "file").write_text("mine")
    for name in ("link", "file"):
        with pytest.raises(ExportError, match=f"found a {name}"):
            write(store, publish(store), tmp_path / name)
    assert not names(tmp_path / "there")


def failing_after(calls: int) -> Iterator[None]:
    """Raises as a full disk does, when it was asked this many times."""
    for _ in range(calls):
        yield
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("calls", range(7))
def test_a_full_disk_leaves_all_as_it_was(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int, replacing: bool
) -> None:
    out = tmp_path / "out"
    if replacing:
        write(store, publish(store), out)
    before = (out / "model.safetensors").read_bytes() if replacing else None
    disk, real = failing_after(calls), Path.open

    def full(self: Path, mode: str = "r", *more: Any, **how: Any) -> Any:
        if "w" in mode:
            next(disk)
        return real(self, mode, *more, **how)

    def rename(source: Any, target: Any) -> None:
        if Path(target) == out and not Path(source).name.endswith("-replaced"):
            next(disk)
        renamed(source, target)

    renamed = os.rename
    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(os, "rename", rename)
    later = publish(store, seed=1)
    if calls < 6:  # five files and a rename
        with pytest.raises(OSError, match="No space left"):
            write(store, later, out)
        assert names(tmp_path) == {"store", *(["out"] if replacing else [])}
        assert not replacing or (out / "model.safetensors").read_bytes() == before
    else:
        write(store, later, out)
        assert names(out) == WRITTEN
