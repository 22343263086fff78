"""Position embeddings of other image sizes in an imported system (SYSTEMS.md, Copying)."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evolution import mutation, state
from evolution.__main__ import console, main
from evolution.checkpoints import CheckpointError, import_state
from evolution.methods import MU2NET, MUNET
from evolution.population import ROOT
from evolution.roots.loading import read_root
from model_store import ModelStore
from tests.evolution.published_states import (
    MU2NET_LAYERS,
    mu2net_entries,
    write_checkpoint,
    write_mu2net,
)
from tests.evolution.systems import tiny
from vit.components import Tree, position_embedding_for

FILE = Path(__file__).parents[2] / "vit" / "golden" / "pretrained" / "augreg_linen.npz"
SPEC = f"augreg:{FILE}"  # 12 px, patches of 4 px: a grid of 3 x 3
RUN = "imported/run"


@pytest.fixture
def published() -> Tree:
    return read_root(SPEC)[1]["posembed_input"]


@pytest.fixture
def folder(tmp_path, published) -> Path:
    """A system at 8 px that began with the file."""
    arch = replace(read_root(SPEC)[0], image_size=8)
    written = write_mu2net(tmp_path / "run" / "state_3_0")
    kept = {i: name for i, name in MU2NET_LAYERS.items() if i not in (7, 8)}
    entries = mu2net_entries(kept)
    entries["posembed_input:3"] = position_embedding_for(arch, published)
    write_checkpoint(written / "checkpoint_3_0", entries)
    return tmp_path / "run"


def imported(folder: Path, store: ModelStore, positions: Tree | None = None) -> list[str]:
    """The lines of the report."""
    report = import_state(folder, store, progress=lambda *_: None, positions=positions)
    return report.text().splitlines()


def grown(store: ModelStore, method=MU2NET) -> np.ndarray:
    """The position embeddings of a child at 12 px, whose ancestors all have 8 px."""
    progress, population = state.load(store, RUN)
    root = population.paths[ROOT][0]
    experiment = tiny(method=method, ranges={})
    hp = {**experiment.defaults, **root.hyperparameters, "ds_image_size": 12}
    arch = mutation.architecture_of(progress.architecture, hp, 3)
    rng = np.random.default_rng(0)
    child = mutation.make_child(population, root, "toy/d", arch, hp, experiment, True, rng)
    positions = child.named("posembed_input")
    assert positions is not None
    return positions.params["pos_embedding"]


@pytest.mark.parametrize("method", [MUNET, MU2NET], ids=lambda method: method.name)
def test_other_sizes_are_resampled_from_the_files_grid_where_it_is_given(
    folder, published, tmp_path, method
):
    store = ModelStore(tmp_path / "store", create=True)
    lines = imported(folder, store, published)
    what = "position embeddings of other image sizes are resampled from the published 3 x 3"
    assert f"run {RUN}: {what}" in lines
    assert np.array_equal(grown(store, method), published["pos_embedding"])


def test_without_the_file_they_are_resampled_from_the_roots_own_and_the_report_says_so(
    folder, published, tmp_path
):
    store = ModelStore(tmp_path / "store", create=True)
    (line,) = [line for line in imported(folder, store) if "position embeddings" in line]
    assert "the root's own, 2 x 2" in line and "--positions augreg:FILE" in line
    assert not np.allclose(grown(store), published["pos_embedding"])
    imported(folder, store, published)  # given later, it is added
    assert np.array_equal(grown(store), published["pos_embedding"])
    imported(folder, store, published)


def test_a_file_that_the_system_did_not_begin_with_is_refused(folder, published, tmp_path):
    store = ModelStore(tmp_path / "store", create=True)
    other = {"pos_embedding": published["pos_embedding"] + np.float32(0.01)}
    wider = {"pos_embedding": np.zeros((1, 10, 32), np.float32)}
    for wrong in (other, wider):
        with pytest.raises(CheckpointError, match="no root of this system began with the file"):
            imported(folder, store, wrong)
    assert not store.agents() and not store.tasks()


def test_the_command_takes_the_file(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(console, "_width", 400)

    def run(positions: str) -> tuple[int, str]:
        arguments = ["import", str(folder), "--store", str(tmp_path / "store")]
        monkeypatch.setattr(sys, "argv", ["evolution", *arguments, "--positions", positions])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    code, text = run("shipped")
    assert code == 2 and "expected augreg:FILE" in text and not (tmp_path / "store").exists()
    code, text = run(SPEC)
    assert code == 0 and "published 3 x 3" in text
