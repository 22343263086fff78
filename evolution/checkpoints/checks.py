"""Checks of published states before anything is written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import jax
import numpy as np

from evolution.checkpoints.files import CheckpointError
from evolution.checkpoints.layouts import Model, StoredLayer
from evolution.population import ROOT
from model_store import InvalidName, StoreError, TaskPath
from model_store.names import require_name


def require_plain(directory: Path) -> None:
    """Raises CheckpointError for a link out of the directory, and for a file that is not plain.

    Checked before anything is opened: reading a pipe would wait for ever.
    """
    top = os.path.realpath(directory)
    for folder, folders, files in os.walk(directory, onerror=_fail):
        for name in (*folders, *files):
            path = Path(folder, name)
            inside = os.path.realpath(path)
            if path.is_symlink() and os.path.commonpath([top, inside]) != top:
                raise CheckpointError(
                    f"{path}: a link out of the directory, expected the file itself; copy it there"
                )
            is_read = name.endswith(".csv") or name.startswith("checkpoint_")
            if is_read and not stat.S_ISREG(_mode(path)):
                raise CheckpointError(
                    f"{path}: expected a file, found a directory, pipe, device or dangling link; "
                    "copy the state whole"
                )


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _fail(error: OSError) -> None:
    raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from None


def require_publishable(model: Model) -> None:
    """Raises CheckpointError unless the task has a valid name and the quality is given."""
    try:
        require_name("task", model.task)
    except InvalidName as error:
        raise CheckpointError(f"{model.row.where}: {error}") from None
    if model.task != ROOT and model.row.share("metrics.quality") is None:
        raise CheckpointError(f"{model.row.where}: {model.what} has no metrics.quality")


def require_storable(spec: TaskPath, model: Model) -> None:
    """Raises CheckpointError for a version that the store would not take."""
    try:
        spec.to_bytes()
    except (StoreError, ValueError) as error:
        raise CheckpointError(f"{model.row.where}: {model.what}: {error}") from None


def require_finite(layer: StoredLayer) -> None:
    """Reads a layer's parameters; raises CheckpointError if one of them is not finite."""
    for leaf in jax.tree.leaves(layer.file.read(layer.entry)):
        if not np.isfinite(leaf).all():
            raise CheckpointError(
                f"checkpoint {layer.file.path}: layer {layer.entry}: expected finite numbers, "
                "found infinities or NaN; its training failed, or the file is damaged"
            )
