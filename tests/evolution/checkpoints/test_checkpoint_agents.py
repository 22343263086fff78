"""What the tables of agents decide: the order of models, and where a layer lies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax.serialization import msgpack_restore

from evolution import state
from evolution.checkpoints import CheckpointError, ImportReport, import_state
from evolution.population import ROOT
from model_store import ModelStore
from tests.evolution.published_states import Agents, write_agents, write_checkpoint

A = "VitT3~toy~a"


def imported(written: Agents) -> tuple[ModelStore, ImportReport]:
    store = ModelStore(written.directory.parent / "store", create=True)
    return store, import_state(written.directory, store, progress=lambda done, total: None)


def test_models_are_in_the_order_of_either_column_of_time(tmp_path):
    """Alphabetically, toy/a would be first."""
    written = write_agents(tmp_path / "system")
    for table in written.directory.rglob("*.csv"):
        text = table.read_text().replace("metrics.timestamp_end", "metrics.end_time")
        table.write_text(text)
    store, _ = imported(written)
    progress, population = state.load(store, "imported/system/VitT3")
    assert [path.task for path in population] == [ROOT, "toy/b", "toy/a"]
    assert [row["ended"] for row in progress.history] == [1003.0, 1004.0, 1005.0]


def _copy_layer(written: Agents, *, keep: bool) -> Path:
    """Puts other numbers, under the name of a layer of state 2, into state 1; or moves it there."""
    entry, (first, second) = f"head:{A}:10", (written.state(A, cycle) for cycle in (1, 2))
    files = [first / "checkpoint_1", second / "checkpoint_2"]
    layers: list[Any] = [msgpack_restore(file.read_bytes()) for file in files]
    layers[0][entry] = {name: leaf + 1 for name, leaf in layers[1][entry].items()}
    if not keep:
        del layers[1][entry]
    for file, content in zip(files, layers, strict=True):
        write_checkpoint(file, content)
    return files[0]


def test_a_layer_in_two_files_is_read_from_the_one_that_its_table_names(tmp_path):
    written = write_agents(tmp_path / "system", refactored=True)
    copy = _copy_layer(written, keep=True)
    store, report = imported(written)
    (path,) = [v.path for v in store.history("toy/a") if v.path.lineage["agent"] == "VitT3/toy/a"]
    head = store.component(path.components["head"])
    np.testing.assert_array_equal(head["kernel"], written.trees[f"{A}:10"]["kernel"])
    (skipped,) = [e for e in report.skipped if f"head:{A}:10" in e.what]
    assert skipped.what.startswith(str(copy))


def test_a_layer_that_is_not_where_its_table_says_is_refused(tmp_path):
    written = write_agents(tmp_path / "system", refactored=True)
    _copy_layer(written, keep=False)
    with pytest.raises(CheckpointError, match=f"head:{A}:10 belongs into .*state_2 by"):
        imported(written)


def test_tables_that_disagree_on_a_layer_are_refused(tmp_path):
    written = write_agents(tmp_path / "system", refactored=True)
    written.write_components(A, 2, {9: "encoder_norm", 10: "head", 7: "encoder_norm"})
    with pytest.raises(CheckpointError, match="layer 7 of VitT3~toy~a is in state_2, but in"):
        imported(written)
