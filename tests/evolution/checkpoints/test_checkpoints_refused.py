"""Broken states are refused whole: nothing is written, and the message names file and row."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evolution.checkpoints import CheckpointError, import_state
from model_store import ModelStore
from tests.evolution.published_states import (
    MU2NET_LAYERS,
    mu2net_entries,
    rows_of,
    write_agents,
    write_checkpoint,
    write_mu2net,
    write_table,
)


def imported(directory: Path, store: ModelStore) -> None:
    import_state(directory, store, progress=lambda done, total: None)


def new_store(directory: Path) -> ModelStore:
    return ModelStore(directory / "store", create=True)


def _table(change: Callable[[list[dict]], None], name: str = "population.csv"):
    def edit(directory: Path) -> None:
        rows = rows_of(directory / name)
        change(rows)
        write_table(directory / name, rows)

    return edit


def _set(column: str, value: str) -> Callable[[Path], None]:
    return _table(lambda rows: rows[-1].update({column: value}))


def _entries(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        entries = mu2net_entries(MU2NET_LAYERS)
        change(entries)
        write_checkpoint(directory / "checkpoint_3_0", entries)

    return edit


def _truncate(directory: Path) -> None:
    file = directory / "checkpoint_3_0"
    file.write_bytes(file.read_bytes()[:-10])


def _cut_table(directory: Path) -> None:
    file = directory / "population.csv"
    file.write_bytes(file.read_bytes()[:-30])


def _keep_header(name: str) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        header, *_ = (directory / name).read_text().splitlines()
        (directory / name).write_text(header + "\n")

    return edit


def _lose_cells(directory: Path) -> None:
    file = directory / "population.csv"
    *rows, last = file.read_text().splitlines()
    file.write_text("\n".join([*rows, last.split(",")[0]]) + "\n")


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda d: (d / "checkpoint_3_0").unlink(), "no checkpoint file"),
        (lambda d: (d / "paths.csv").unlink(), "paths.csv: the table is missing"),
        (lambda d: (d / "checkpoint_3_1").touch(), "expected one checkpoint file"),
        (_truncate, "truncated"),
        (_cut_table, "population.csv: not a CSV table"),
        (_keep_header("population.csv"), "population.csv: columns but no rows"),
        (_keep_header("paths.csv"), "paths.csv: columns but no rows"),
        (_keep_header("components.csv"), "components.csv: columns but no rows"),
        (_lose_cells, "population.csv line 5: more or fewer cells"),
        (_entries(lambda e: e.pop("encoder_norm:16")), "lists layer 16, which is in no"),
        (_entries(lambda e: e.update({"head:16": e["head:17"]})), "expected each id once"),
        (_entries(lambda e: e.update({"head": e["head:17"]})), "entry 'head'"),
        (_entries(lambda e: e.update({"head:17": e["head:6"]})), "3 classes, but its head"),
        (_entries(lambda e: e.update({"posembed_input:15": e["posembed_input:3"]})),
         r"posembed_input:15, array pos_embedding: found float32 \[1, 5, 16\], expected float32"),
        (_entries(lambda e: e["encoder_norm:16"].pop("bias")), "array bias: found nothing"),
        (_entries(lambda e: e.update({"opt_state:head:17": e["head:17"]})),
         "expected bfloat16"),
        (_entries(lambda e: e.update({"cls:4": e["cls:4"].astype(np.float64)})), "'float64'"),
        (_set("components", "16_1_3_4_5"), "lists no layer head"),
        (_set("components", "16_1_3_4_5_17_14"), "lists head twice"),
        (_set("components", "16.0"), "components"),
        (_table(lambda rows: rows.append(rows[-1])), "is there twice"),
        (_set("parent_id", "9"), "expected a lower id"),
        (_set("task_name", "toy/../c"), "toy/../c"),
        (_set("hparams.num_layers", "2"), "lists no layer encoderblock_1"),
        (_set("hparams.num_layers", "1.5"), "num_layers: '1.5', expected a whole number"),
        (_set("hparams.adapter_layers", "0_x"), "adapter_layers"),
        (_set("hparams.ds_image_size", ""), "ds_image_size"),
        (_set("hparams.opt_nesterov", "maybe"), "opt_nesterov: 'maybe'"),
        (_set("metrics.quality", ""), "no metrics.quality"),
        (_set("metrics.evals", "[0.1"), "metrics.evals: not JSON"),
        (_table(lambda rows: [row.pop("parent_id") for row in rows]), "parent_id are missing"),
    ],
)  # fmt: skip
def test_a_broken_state_is_refused_whole(tmp_path, breaks, message):
    directory = write_mu2net(tmp_path / "state_3_0")
    breaks(directory)
    store = new_store(tmp_path)
    with pytest.raises(CheckpointError, match=message) as error:
        imported(directory, store)
    assert str(tmp_path) in str(error.value)
    assert not list((Path(store.url) / "blobs/sha256").iterdir())
    assert store.agents() == []


def test_directories_that_are_no_state_are_refused(tmp_path):
    store = new_store(tmp_path)
    with pytest.raises(CheckpointError, match=r"no such directory.*mu2net186\.zip"):
        imported(tmp_path / "nothing", store)
    with pytest.raises(CheckpointError, match="found no state"):
        imported(tmp_path, store)
    for name in ("one", "two"):
        write_mu2net(tmp_path / "both" / name / "state_1_0")
    with pytest.raises(CheckpointError, match="give one of them"):
        imported(tmp_path / "both", store)
    written = write_agents(tmp_path / "agents")
    for part in ("VitT3~toy~a", "VitT3~toy~a/state_2_0"):
        with pytest.raises(CheckpointError, match="one agent, which needs those of others"):
            imported(written.directory / part, store)


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda d: shutil.rmtree(d / "VitT3~root_model~random_init"), "which is in no checkpoint"),
        (lambda d: shutil.rmtree(d / "VitT3~toy~a/state_1_0"), "which is in no checkpoint"),
        (lambda d: (d / "VitT3~toy~b/state_1_0/published.csv").unlink(), "is missing"),
        (_keep_header("VitT3~toy~b/state_1_0/published.csv"), "columns but no rows"),
        (lambda d: [p.unlink() for p in d.glob("*/*/checkpoint_*")], "no agent publishes a model"),
        (lambda d: shutil.copytree(d / "VitT3~toy~b/state_1_0", d / "VitT3~toy~b/state_2_0"),
         "expected each id once"),
        (lambda d: shutil.copytree(d / "VitT3~toy~b/state_1_0", d / "VitT3~toy~b/state_2"),
         "both layouts"),
    ],
)  # fmt: skip
def test_a_broken_system_of_agents_is_refused_whole(tmp_path, breaks, message):
    written = write_agents(tmp_path / "system")
    breaks(written.directory)
    store = new_store(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        imported(written.directory, store)
    assert not list((Path(store.url) / "blobs/sha256").iterdir())


def test_a_state_that_lost_its_population_is_not_passed_over(tmp_path):
    """The one before it would go live instead."""
    write_mu2net(tmp_path / "run/state_2_0")
    (write_mu2net(tmp_path / "run/state_10_0") / "population.csv").unlink()
    store = new_store(tmp_path)
    with pytest.raises(CheckpointError, match="state_10_0: a checkpoint without"):
        imported(tmp_path / "run", store)
    assert store.tasks() == []
