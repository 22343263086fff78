"""Law: the card says what the store knows, says where it knows nothing, and names nothing private;
no text of a user's changes its form. `munet export` refuses private tasks without a flag."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import munet
from evolution.adopting.export import write
from evolution.data.confidence import interval
from model_store import ModelStore, Published
from tests.evolution.adopting.exported import ADAPTED, TINY, publish, random_params
from vit.decode import TENSORFLOW, VIEWER

HOSTILE = "CC-BY\n---\n# Mine | <script>alert(1)</script> [a](http://x) `b`"
METRICS = {
    "validation": {"accuracy": 0.9, "split": "train[90%:]", "examples": 50, "digest": "sha256:0"},
    "test": {"accuracy": 0.875, "split": "test", "examples": 80},
    "compute": {"forward_flops": 12},
}


def data(name: str, licence: str) -> dict[str, Any]:
    return {
        "data": {
            "name": name,
            "fingerprint": f"sha256:{name}",
            "source": "a walk",
            "licence": licence,
            "pictures": {"train": 1200, "validation": 50, "test": 80},
            "findings": {"leak-test": "1 of 80 | shows the same"},
        }
    }


def family(store: ModelStore) -> Published:
    """`flowers`, made from `birds`, which was made from the shipped root; and a private one."""
    store.save_agent("first", {"settings": {"root": "shipped"}}, [])
    params = random_params(TINY, 0)
    lineage = {"method": "mu2net", "agent": "first", "generation": 1}
    birds = publish(store, params=params, task="birds", lineage=lineage, extra=data("b", HOSTILE))
    publish(store, params=params, task="secret/cells", private=True)
    params["head"] = random_params(TINY, 1)["head"]
    parent = {"parent": birds.digest, "parent_task": "birds"}
    lineage = {**parent, "method": "mu2net", "agent": "second", "generation": 4}
    return publish(store, params=params, lineage=lineage, metrics=METRICS, extra=data("f", "CC0"))


def card_of(store: ModelStore, published: Published, folder: Path) -> str:
    write(store, published, folder)
    return (folder / "README.md").read_text()


def test_the_card_tells_lineage_data_licence_accuracy_and_sharing(
    store: ModelStore, tmp_path: Path
) -> None:
    published = family(store)
    card = card_of(store, published, tmp_path / "out")
    low, high = interval(0.875, 80)
    assert f"| test | accuracy | 0.8750 | 80 | {low:.3f} … {high:.3f} |" in card
    assert "| train[90%:] |".replace("[", r"\[").replace("]", r"\]") in card
    assert "| flowers | f | 1,200 + 50 + 80 | sha256:f | a walk | CC0 |" in card
    assert "\n- 1 of 80 \\| shows the same\n" in card
    assert f"| flowers | v1 | 4 | mu2net | `{published.digest}` |" in card
    assert "| birds | v1 | 1 | mu2net |" in card
    assert "trained on Omniglot (MIT licence)" in card
    assert "6 of its 7 components" in card
    assert "other public tasks: birds. There" in card
    assert "secret" not in card


def test_a_card_without_facts_says_so_and_invents_none(store: ModelStore, tmp_path: Path) -> None:
    card = card_of(store, publish(store), tmp_path / "out")
    for said in (
        "The store has no measurement of this version: not recorded.",
        "| flowers |  | not recorded | not recorded | not recorded | not recorded |",
        "Which root that was is not recorded.",
        "Nothing: no other public task of its store uses one of its 7 components.",
        "The root's licence is not recorded.",
    ):
        assert said in card
    assert "model-index" not in card
    assert "made from the one below" not in card


def test_an_adopted_network_says_whose_it_was(store: ModelStore, tmp_path: Path) -> None:
    told = {"publisher": "timm", "class": "vit_tiny", "name": "x|y", "licence": "apache-2.0"}
    adopted = publish(store, task="birds", extra={"adopted": told})
    lineage = {"parent": adopted.digest, "parent_task": "birds"}
    card = card_of(store, publish(store, seed=1, lineage=lineage), tmp_path / "out")
    assert "trained elsewhere: x\\|y, a vit\\_tiny of\ntimm." in card
    assert "Licence of the network that was adopted: apache-2.0." in card


def test_a_measurement_without_its_pictures_is_told(store: ModelStore, tmp_path: Path) -> None:
    metrics = {"validation": {"accuracy": 0.5}, "compute": {"forward_flops": 3.0}}
    card = card_of(store, publish(store, metrics=metrics), tmp_path / "out")
    assert "| validation | accuracy | 0.5000 | not recorded |  |" in card
    assert "flops" not in card
    assert "model-index" not in card


def test_several_labels_a_picture_are_told_with_their_positives(
    store: ModelStore, tmp_path: Path
) -> None:
    test = {"mean_average_precision": 0.75, "examples": 80, "split": "test", "positives": [3, 9, 4]}
    fields = {"metrics": {"test": test}, "extra": {"activation": "sigmoid"}}
    card = card_of(store, publish(store, **fields), tmp_path / "out")
    row = "| test | mean_average_precision | 0.7500 | 80 | 3 to 9 pictures have a label |"
    assert row in card
    assert "any number of 3 classes" in card
    assert "torch.sigmoid(logits)" in card


def test_an_ancestor_that_is_gone_is_said_to_be(store: ModelStore, tmp_path: Path) -> None:
    published = family(store)
    store.rm("birds")
    card = card_of(store, published, tmp_path / "out")
    assert "| birds | no longer in the store |" in card


def test_texts_of_users_keep_the_form(store: ModelStore, tmp_path: Path) -> None:
    labels = ("<b>bold</b>", "new\nline | cell", "```")
    card = card_of(store, publish(store, labels=labels, extra=data("x|y", HOSTILE)), tmp_path / "o")
    assert card.count("\n---\n") == 1  # the end of the front matter
    assert len(re.findall(r"^# ", card, re.MULTILINE)) == 1
    assert card.count("```") % 2 == 0
    assert r"\<script\>" in card
    assert "<b>" not in card
    rows = [line for line in card.splitlines() if line.startswith("| flowers | x")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [7]


def test_how_files_become_pixels_is_told_by_the_versions_own_rules(
    store: ModelStore, tmp_path: Path
) -> None:
    viewer = card_of(store, publish(store), tmp_path / "viewer")
    assert "exif_transpose" in viewer
    assert "laid on grey 255" in viewer
    scaled = replace(TENSORFLOW, pixel_scale=255)
    raw = card_of(store, publish(store, ADAPTED, decoding=scaled), tmp_path / "tensorflow")
    assert "exif_transpose" not in raw
    assert "Transparency is dropped" in raw
    assert "multiplied by 255" in raw
    assert "x = x.clamp(max=1) * 255\n    x = interpolate(" in raw
    assert "before blocks\n0, 1 (counted from 0)" in raw
    assert "draft(" not in viewer + raw
    reduced = replace(VIEWER, reduced=True)
    photos = card_of(store, publish(store, decoding=reduced, seed=1), tmp_path / "reduced")
    assert "    image.draft(None, (28, 28))" in photos
    assert "shorter one keeps 28 pixels. transformers' pipeline decodes it whole" in photos


def test_a_private_parent_is_named_nowhere(store: ModelStore, tmp_path: Path) -> None:
    """Also where it became private after it was a parent."""
    parent = publish(store, task="secret/cells")
    publish(store, task="secret/cells", seed=1, private=True)
    lineage = {"parent": parent.digest, "parent_task": "secret/cells"}
    published = publish(store, seed=2, lineage=lineage)
    card = card_of(store, published, tmp_path / "out")
    assert "| a private task |" in card
    for file in (tmp_path / "out").iterdir():
        assert b"secret" not in file.read_bytes()


# ---- the command


def run(*arguments: str) -> Any:
    return CliRunner().invoke(munet.app, ["export", *arguments])


def test_the_command_writes_the_live_version_or_another(store: ModelStore, tmp_path: Path) -> None:
    publish(store)
    second = publish(store, seed=1)
    out = tmp_path / "out"
    done = run("flowers", "--to", f"hf:{out}", "--store", store.url)
    assert done.exit_code == 0, done.output
    assert "flowers v2" in done.output
    assert second.digest in (out / "munet.json").read_text()
    done = run("flowers", "--to", f"hf:{out}", "--store", store.url, "--version", "1")
    assert "flowers v1" in done.output
    assert second.digest not in (out / "munet.json").read_text()


def test_a_private_task_needs_a_flag_and_its_card_says_so(
    store: ModelStore, tmp_path: Path
) -> None:
    publish(store)
    publish(store, private=True)
    arguments = ("flowers", "--to", f"hf:{tmp_path / 'out'}", "--store", store.url)
    assert "expected --private" in str(run(*arguments, "--version", "1").exception)
    refused = run(*arguments)
    assert "expected --private" in str(refused.exception)
    assert not (tmp_path / "out").exists()
    assert run(*arguments, "--private").exit_code == 0
    assert "**This task is private.**" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("place", ["out", "hf:", "onnx:out", "HF:out"])
def test_another_kind_of_place_is_refused(store: ModelStore, place: str) -> None:
    publish(store)
    refused = run("flowers", "--to", place, "--store", store.url)
    assert "expected hf:DIR" in str(refused.exception)


def test_what_others_raise_is_known_to_the_command(store: ModelStore, tmp_path: Path) -> None:
    refused = run("nothing", "--to", f"hf:{tmp_path / 'out'}", "--store", store.url)
    assert isinstance(refused.exception, munet.known_errors())
